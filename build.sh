#!/usr/bin/env bash
# Builds the container image. ARGS go to docker build, for instance: ./build.sh --build-arg BASE_IMAGE=debian:12
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/venv.sh"

command -v docker >/dev/null || die "needs docker on PATH; without it, ./predict.sh --native needs no image"
exec docker build --tag "${PERSONALIVE_IMAGE:-personalive}" "$@" "$root"
