#!/usr/bin/env bash
# Linters, types and tests, in an environment of its own that it makes where there is none.
#   ./test.sh                 what CI runs
#   ./test.sh --all           slow tests, full-size parity and the container too
#   ./test.sh [--all] ARGS    ARGS go to pytest, for instance: ./test.sh tests/test_stream.py -k flush
set -euo pipefail
exec </dev/null
. "$(dirname "${BASH_SOURCE[0]}")/scripts/venv.sh"
cd "$root"

all=
if [ "${1:-}" = --all ]; then
    all=yes
    shift
fi

make_venv requirements.txt requirements-dev.txt
make_libraries
# The browser tests skip, and say so, where there is no Chromium.
command -v chromium >/dev/null || install_packages chromium || say "no Chromium: the browser tests will be skipped"
export PATH="$root/.venv/bin:$PATH"
export HF_HUB_DISABLE_TELEMETRY=1

failed=()
check() {
    printf '== %s\n' "$*"
    "$@" || failed+=("$*")
}

mapfile -t scripts < <(git ls-files -co --exclude-standard -- '*.sh' .ci/run)
mapfile -t yaml < <(git ls-files -co --exclude-standard -- '*.yaml' '*.yml')
check ruff check --quiet .
check ruff format --quiet --check .
check mypy
check lint-imports --no-logo --no-cache
check shellcheck --external-sources "${scripts[@]}"
check hadolint Dockerfile
check yamllint --strict "${yaml[@]}"
check env NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

# One more than cores, as much of what servers are tested with is waiting. Before the next line, which nproc heeds, too.
workers=$(($(nproc) + 1))
# One thread for each worker: two that share the cores would wait for each other in every small product.
export OMP_NUM_THREADS=1
# Files in the order of tests/conftest.py: the ones with few tests are slow, and would be left for the end.
pytest_arguments=(--durations=10 --numprocesses "$((workers < 4 ? workers : 4))" --dist loadfile --no-loadscope-reorder)
if [ -n "$all" ]; then
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

status=0
pytest "${pytest_arguments[@]}" "$@" || status=$?
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
exit "$status"
