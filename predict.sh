#!/usr/bin/env bash
# Makes an animation; without arguments, from the demo portrait and the demo driver.
#   ./predict.sh --ref_image portrait.png --driving_video talk.mp4
#   ./predict.sh --help              every option
#   ./predict.sh serve               the live page; also: batch, download, doctor, benchmark, verify
# Runs in the container if there are Docker and an NVIDIA GPU, otherwise in .venv. --docker or --native forces one.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/venv.sh"

image=${PERSONALIVE_IMAGE:-personalive}

docker_with_gpu() {
    command -v docker >/dev/null && has_gpu && docker info 2>/dev/null | grep -qi nvidia
}

has_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

mode=
arguments=()
for argument in "$@"; do
    case $argument in
    --docker | --native)
        [ -z "$mode" ] || [ "$mode" = "${argument#--}" ] || die "--docker and --native exclude each other"
        mode=${argument#--}
        ;;
    *) arguments+=("$argument") ;;
    esac
done
set -- ${arguments[@]+"${arguments[@]}"}

verb=animate
case ${1:-} in
animate | batch | serve | download | doctor | benchmark | verify)
    verb=$1
    shift
    ;;
esac

if [ "$verb" = batch ]; then # its lists name files anywhere, which a container would not see
    [ "$mode" != docker ] || die "batch runs natively only: leave --docker out"
    mode=native
fi
if [ -z "$mode" ]; then
    if docker_with_gpu; then mode=docker; else mode=native; fi
fi

if [ "$mode" = native ]; then
    make_venv requirements.txt
    make_libraries
    exec "$root/.venv/bin/personalive" "$verb" "$@"
fi

command -v docker >/dev/null || die "--docker was asked for, but there is no docker on PATH"
docker info >/dev/null 2>&1 || die "docker does not answer: is its daemon running, and are you in the group docker?"

# The user's files are seen in the container under /host, at the path that they have here.
declare -A mounted=() # by target, as Docker takes each only once
mount() { # mount SOURCE TARGET [readonly]; quoted, as commas separate the fields
    local source=${1//\"/\"\"} target=${2//\"/\"\"}
    if [ -n "${mounted[$2]:-}" ] && [ -n "${3:-}" ]; then return; fi # what can be written can be read
    mounted[$2]="type=bind,\"source=$source\",\"target=$target\"${3:+,$3}"
}

absolute() { realpath --canonicalize-missing --no-symlinks -- "$1"; }

# in_container FLAG VALUE: sets `seen` to what the program in the container is given for VALUE, and mounts what it needs.
in_container() {
    local path
    seen=$2
    case $2 in http://* | https://*) return ;; esac
    case $1 in
    --ref_image | --driving_video | --presets | --tls_cert | --tls_key | --tiny_vae | --onnx | --sign | --sign_key | --trust)
        [ -e "$2" ] || die "$1: there is no file $2"
        ;;
    --model)
        case $2 in personalive | demo) return ;; esac
        [ -e "$2" ] || die "--model: neither personalive, demo nor a folder: $2"
        ;;
    --output | -o | --save_motion)
        path=$(absolute "$2")
        if [ "${path#"$PWD/outputs/"}" != "$path" ]; then
            seen=outputs/${path#"$PWD/outputs/"}
        else
            mkdir -p "$(dirname "$path")"
            mount "$(dirname "$path")" "/host$(dirname "$path")"
            seen=/host$path
        fi
        return
        ;;
    *) return ;;
    esac
    path=$(absolute "$2")
    if [ "${2%.motion}" != "$2" ]; then # its sound may lie beside it
        mount "$(dirname "$path")" "/host$(dirname "$path")" readonly
        seen=/host$path
        return
    fi
    mount "$path" "/host$path" readonly
    seen=/host$path
}

command=(personalive "$verb")
while [ $# -gt 0 ]; do
    case $1 in
    --*=*)
        in_container "${1%%=*}" "${1#*=}"
        command+=("${1%%=*}=$seen")
        ;;
    -o?*)
        in_container -o "${1#-o}"
        command+=("-o$seen")
        ;;
    -*)
        command+=("$1")
        if [ $# -gt 1 ]; then
            in_container "$1" "$2"
            if [ "$seen" != "$2" ]; then
                command+=("$seen")
                shift
            fi
        fi
        ;;
    *)
        seen=$1
        if [ "$verb" = verify ]; then in_container --trust "$1"; fi
        command+=("$seen")
        ;;
    esac
    shift
done

docker image inspect "$image" >/dev/null 2>&1 || "$root/build.sh"

cache=${HF_HOME:-$HOME/.cache/huggingface}
mkdir -p "$cache" outputs
mount "$(absolute "$cache")" /cache
mount "$PWD/outputs" /app/outputs

options=(--rm --init --user "$(id -u):$(id -g)" --cap-drop ALL --security-opt no-new-privileges --env HOME=/tmp)
if has_gpu; then options+=(--gpus all); else say "no NVIDIA GPU: the container runs on the CPU"; fi
if [ -t 0 ] && [ -t 1 ]; then options+=(--interactive --tty); fi
for name in HF_TOKEN HF_ENDPOINT HF_HUB_OFFLINE MODELSCOPE_ENDPOINT PERSONALIVE_HUB PERSONALIVE_REVISION \
    PERSONALIVE_TOKEN PERSONALIVE_SIGN_INPUTS PERSONALIVE_ALLOW_PRIVATE_URLS; do
    if [ -n "${!name:-}" ]; then options+=(--env "$name"); fi
done
for name in PERSONALIVE_SIGN PERSONALIVE_SIGN_KEY; do
    if [ -n "${!name:-}" ]; then
        in_container --sign "${!name}"
        options+=(--env "$name=$seen")
    fi
done
# WebRTC picks its ports itself, so the live server shares the host's network; it listens on loopback unless told.
if [ "$verb" = serve ]; then options+=(--network host); fi

for target in "${!mounted[@]}"; do options+=(--mount "${mounted[$target]}"); done
exec docker run "${options[@]}" "$image" "${command[@]}"
