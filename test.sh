#!/usr/bin/env bash
# Linters, types and tests, in an environment of its own that it makes where there is none.
#   ./test.sh                 what CI runs
#   ./test.sh --quick         in under a minute: Python's linters, types, and the tests of `quick_tests` below
#   ./test.sh --all           slow tests, full-size parity, the wheel and the container too
#   ./test.sh [--all] ARGS    ARGS go to pytest, for instance: ./test.sh tests/test_stream.py -k flush
set -euo pipefail
exec </dev/null
. "$(dirname "${BASH_SOURCE[0]}")/scripts/venv.sh"
cd "$root"

# Files whose tests need no network, server, browser, process or ffmpeg, and together a few seconds of one core.
quick_tests=(tests/test_{config,cuda_graphs,docs,keypoints,pins,sampler,settings,transfer,weight_rule}.py)

tier=
case ${1:-} in
--quick | --all)
    tier=$1
    shift
    ;;
esac

# The browser tests skip, and say so, where there is no Chromium. apt mostly waits for the network, as pip does.
browser=
if [ "$tier" != --quick ] && ! command -v chromium >/dev/null; then
    { install_packages chromium || say "no Chromium: the browser tests will be skipped"; } &
    browser=$!
fi
make_venv requirements-dev.txt
wait $browser
make_libraries
export PATH="$root/.venv/bin:$PATH"
export HF_HUB_DISABLE_TELEMETRY=1

report=$(mktemp)
trap 'rm -f "$report"' EXIT
failed=()
check() {
    printf '== %s\n' "$*"
    "$@" || failed+=("$*")
}
finish() {
    [ ${#failed[@]} -eq 0 ] && exit
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
}

python_linters() {
    check ruff check --quiet .
    check ruff format --quiet --check .
    check lint-imports --no-logo --no-cache
    check mypy
}

# Beside each other, as tests leave a part of the cores idle: what has fewer lines to say is shown when both are done.
if [ "$tier" = --quick ]; then
    OMP_NUM_THREADS=1 pytest "${quick_tests[@]}" "$@" >"$report" 2>&1 &
    python_linters
    wait "$!" || failed+=("pytest")
    cat "$report"
    finish
fi

linters() {
    mapfile -t scripts < <(git ls-files -co --exclude-standard -- '*.sh' .ci/run)
    mapfile -t yaml < <(git ls-files -co --exclude-standard -- '*.yaml' '*.yml')
    python_linters
    check shellcheck --external-sources "${scripts[@]}"
    check hadolint Dockerfile
    check yamllint --strict "${yaml[@]}"
    check env NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
    finish
}
linters >"$report" 2>&1 &
linted=$!

# More workers than cores, as tests of servers and processes mostly wait. Keep before OMP_NUM_THREADS, which nproc honours.
workers=$(($(nproc) + 3))
# One thread for each worker: two that share the cores would wait for each other in every small product.
export OMP_NUM_THREADS=1
# Files in the order of tests/conftest.py: the ones with few tests are slow, and would be left for the end.
pytest_arguments=(--durations=10 --numprocesses "$((workers < 8 ? workers : 8))" --dist loadfile --no-loadscope-reorder)
if [ "$tier" = --all ]; then
    reference=${PERSONALIVE_REFERENCE:-../shared/reference}
    if [ -d "$reference" ]; then
        check python -m tests.parity "$reference"
    else
        say "no $reference: the full-size parity is skipped"
    fi
    if command -v buildah >/dev/null; then
        check tests/container.sh
    else
        say "no buildah: the container is not built"
    fi
    pytest_arguments+=(-m "slow or not slow")
fi

pytest "${pytest_arguments[@]}" "$@" || failed+=("pytest")
wait "$linted" || failed+=("linters")
cat "$report"
finish
