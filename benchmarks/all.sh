#!/usr/bin/env bash
# GPU measurements one after the other, each with a time limit of its own:
#   benchmarks/all.sh FOLDER [STEP...]     one JSON and one log per step; without steps, all of them
# "endurance" runs FRAMES frames, 10,000 unless told. "precision" needs GOLDENS, the folder of the end-to-end goldens, and is not among those.
# "graphs" shows the cold start on a machine whose kernel caches are empty, "warm" after it the warm one.
set -uo pipefail
folder=${1:?usage: benchmarks/all.sh FOLDER [STEP...]}
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
mkdir -p "$folder"
# Neither is part of an installation of this package, and where they are, importing diffusers takes seconds longer.
export USE_FLAX=0 USE_TF=0
steps=("$@")
[ $# -gt 0 ] || steps=(graphs warm tests memory streams none kernels low_memory bf16 sizes endurance)

# measure NAME SECONDS MODULE ARGUMENTS...
measure() {
    local name=$1 limit=$2
    shift 2
    local began=$SECONDS
    timeout "$limit" python3 -X faulthandler -m "$@" --output "$folder/$name.json" >"$folder/$name.log" 2>&1
    local status=$?
    printf '== %s: exit status %d after %d s\n' "$name" "$status" $((SECONDS - began))
    grep -v '^  ' "$folder/$name.log" | cut -c1-260 | tail -n 60
}

for step in "${steps[@]}"; do
    case $step in
    tests)
        # In an environment that has no more than PyTorch and pytest: without the project's settings.
        PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} timeout 150 python3 -X faulthandler -m pytest -q -c /dev/null --rootdir=. --noconftest -p no:cacheprovider \
            tests/test_kernels.py tests/test_cuda_graphs.py tests/test_training_parts.py tests/test_transfer.py tests/test_layouts.py tests/test_bank_attention.py >"$folder/tests.log" 2>&1
        tail -n 15 "$folder/tests.log" | cut -c1-260
        ;;
    graphs) measure graphs 200 benchmarks.gpu ;;
    warm) measure warm 60 benchmarks.gpu --skip calls parts profile agreement ;;
    none) measure none 90 benchmarks.gpu --accelerate none --keyframes 0 3 --skip agreement ;;
    kernels) measure kernels 120 benchmarks.kernels ;;
    low_memory) measure low_memory 60 benchmarks.gpu --low_memory --keyframes 0 3 --skip parts profile agreement ;;
    bf16) measure bf16 90 benchmarks.gpu --dtype bfloat16 --keyframes 0 3 --skip profile ;;
    fp8) measure fp8 90 benchmarks.gpu --quantize fp8 --keyframes 0 3 ;;
    tiny_vae) measure tiny_vae 60 benchmarks.gpu --tiny_vae --keyframes 0 --skip profile agreement ;;
    fp8_tiny_vae) measure fp8_tiny_vae 60 benchmarks.gpu --quantize fp8 --tiny_vae --keyframes 0 3 --skip profile agreement ;;
    sizes)
        for size in 384 768; do
            measure "size_$size" 60 benchmarks.gpu --size "$size" --keyframes 0 3 --skip profile agreement
        done
        ;;
    memory)
        measure memory 45 benchmarks.gpu_memory
        measure memory_low 45 benchmarks.gpu_memory --low_memory
        PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True measure memory_expandable 45 benchmarks.gpu_memory
        ;;
    streams) measure streams 150 benchmarks.gpu_streams ;;
    endurance) measure endurance 290 benchmarks.gpu --long "${FRAMES:-10000}" --skip calls parts profile agreement ;;
    precision) measure precision 240 benchmarks.precision "${GOLDENS:?the folder of the goldens}" ;;
    *) printf 'unknown step: %s\n' "$step" >&2 ;;
    esac
done
