#!/usr/bin/env bash
# Fetches the published weights into the cache ($HF_HOME, by default ~/.cache/huggingface), checks and resumes.
#   ./download_models.sh --dry_run    files and sizes only
exec "$(dirname "${BASH_SOURCE[0]}")/predict.sh" download "$@"
