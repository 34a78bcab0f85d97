#!/usr/bin/env bash
# The live page: a webcam in, the animated portrait out. Options: ./serve.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/predict.sh" serve "$@"
