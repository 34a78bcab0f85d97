#!/usr/bin/env bash
# Builds the Dockerfile for real where there is no Docker engine, and asks the server in it for an animation.
# Needs root, buildah, crun and debootstrap (apt-get install buildah crun debootstrap), 30 GB of disk and the network.
# The base is a Debian 12 made here, so the Dockerfile installs Python and torch itself. About ten minutes.
#   tests/container.sh            in a temporary folder that is removed at the end
#   tests/container.sh FOLDER     in FOLDER, which is kept: the image can be looked at afterwards
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ "$(id -u)" -eq 0 ] || { echo "tests/container.sh: must run as root" >&2; exit 1; }
for tool in buildah crun debootstrap; do
    command -v "$tool" >/dev/null || { echo "tests/container.sh: no $tool on PATH" >&2; exit 1; }
done

work=${1:-$(mktemp -d)}
server=
mkdir -p "$work"
work=$(realpath "$work")
storage=(--storage-driver vfs --root "$work/storage" --runroot "$work/run")

clean_up() {
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then kill "$server"; wait "$server" || true; fi
    if [ $# -eq 0 ]; then rm -rf --one-file-system "$work"; fi
}
# shellcheck disable=SC2064
trap "clean_up $*" EXIT

step() { printf '== %s (%d s)\n' "$*" "$SECONDS"; }

# This machine's pip settings hold while the image is built, and are not part of it: the file is a mount, and so is
# every file or folder that it names.
pip_mounts() {
    local line key value path
    echo '[global]' >"$work/pip.conf"
    while IFS= read -r line; do
        key=${line%%=*} value=${line#*=} value=${value//\'/}
        case $key in
        cert)
            install -D -m 644 "$value" "$work/pip/cert.pem"
            value=/run/pip/cert.pem
            ;;
        cache-dir) continue ;;
        esac
        printf '%s = %s\n' "$key" "$value" >>"$work/pip.conf"
        for path in $value; do
            case $path in
            /run/pip/*) printf '%s:/run/pip:ro\n' "$work/pip" ;;
            file://*) path=$(dirname "${path#file://}") && printf '%s:%s:ro\n' "$path" "$path" ;; # files lie beside an index
            /*) printf '%s:%s:ro\n' "$path" "$path" ;;
            esac
        done
    done < <(python3 -m pip config list | sed 's/^[^.]*\.//' | awk -F= '!seen[$1]++')
    printf '%s:/etc/pip.conf:ro\n' "$work/pip.conf"
}

step "a Debian 12 base"
if [ ! -e "$work/base/etc/debian_version" ]; then
    debootstrap --variant=minbase bookworm "$work/base" >"$work/debootstrap.log"
fi
base=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" add --quiet "$base" "$work/base" / >/dev/null
buildah "${storage[@]}" commit --quiet --rm "$base" personalive-base >/dev/null
rm -rf "$work/base"

step "buildah build"
mapfile -t mounts < <(pip_mounts | while IFS= read -r mount; do [ ! -e "${mount%%:*}" ] || printf -- '--volume\n%s\n' "$mount"; done)
buildah "${storage[@]}" build --isolation chroot --format docker --tag personalive \
    --build-arg BASE_IMAGE=localhost/personalive-base "${mounts[@]}" .
buildah "${storage[@]}" rmi personalive-base >/dev/null 2>&1 || true
step "built; the image's files take $(du -sh "$work/storage" | cut -f1) with the base"

step "the server as the image starts it"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
container=$(buildah "${storage[@]}" from personalive)
mapfile -t command < <(buildah "${storage[@]}" inspect --format '{{range .OCIv1.Config.Cmd}}{{println .}}{{end}}' "$container" | sed '/^$/d')
mapfile -t health < <(buildah "${storage[@]}" inspect --format '{{range .Docker.Config.Healthcheck.Test}}{{println .}}{{end}}' "$container" | sed '/^$/d')
in_container=(buildah "${storage[@]}" run --isolation chroot --env "PORT=$port" "$container" --)
[ "$("${in_container[@]}" id -u)" = 1000 ]
# shellcheck disable=SC2016
"${in_container[@]}" sh -c 'echo $$ >/tmp/server.pid && exec "$@"' sh "${command[@]}" >"$work/server.log" 2>&1 &
server=$!

python3 tests/container_client.py "http://127.0.0.1:$port" || { tail -n 50 "$work/server.log"; exit 1; }

step "the image's health check: ${health[*]:1}"
[ "$("${in_container[@]}" "${health[@]:1}")" = READY ]

step "shutdown"
# shellcheck disable=SC2016
"${in_container[@]}" sh -c 'kill "$(cat /tmp/server.pid)"'
wait "$server"
server=
step "the command, as a user whom the image does not know: as predict.sh starts it"
install --directory --owner 4321 --group 4321 "$work/outputs"
buildah "${storage[@]}" run --isolation chroot --user 4321:4321 --env HOME=/tmp \
    --volume "$work/outputs:/app/outputs" "$container" -- personalive animate --max_frames 8
find "$work/outputs" -name '*.mp4' -user 4321 -size +1k | grep .

step "the container was built, served an animation and stopped"
