# shellcheck shell=bash
# What test.sh and predict.sh share: the environment in .venv and the system packages. Sourced, never run.

# Packages are installed without bytecode, so it must be kept when it is made: importing torch from source takes seconds.
unset PYTHONDONTWRITEBYTECODE

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# install_packages PACKAGE...: with apt, as root or through a sudo that asks no password. Fails with one line otherwise.
install_packages() {
    local as_root=(env)
    if ! command -v apt-get >/dev/null; then
        say "cannot install $* here: no apt-get on PATH"
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            say "cannot install $* without a password; run: sudo apt-get install $*"
            return 1
        fi
        as_root=(sudo -n env)
    fi
    say "installing $* with apt"
    (
        if command -v flock >/dev/null; then flock 8; fi # test.sh installs Chromium while .venv is made
        "${as_root[@]}" apt-get update -qq </dev/null >/dev/null ||
            say "apt-get update failed; trying with the lists as they are"
        "${as_root[@]}" DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 8>&-
    ) 8>"$root/.apt.lock" || {
        say "apt-get install $* failed"
        return 1
    }
}

# find_python: the first of $PYTHON, python3.11, python3.12, python3 and python that is 3.11 or 3.12.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3 python; do
        if [ -n "$candidate" ] &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Debian's Python comes without the part that fills a venv.
create_venv() {
    local python version
    python=$(find_python) || die "needs Python 3.11 or 3.12 on PATH (or its path in \$PYTHON); found none"
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        install_packages "python$version-venv" || die "$python has no venv module, so .venv cannot be made"
    fi
    say "making .venv with $python"
    "$python" -m venv "$root/.venv"
}

# digest REQUIREMENTS: changes with the pins, the package's metadata and the interpreter.
digest() {
    local files=("$root/requirements.txt" "$root/$1" "$root/pyproject.toml")
    { cat "${files[@]}" && "$root/.venv/bin/python" -c 'import sys; print(sys.version, sys.prefix)'; } | sha256sum
}

# install_pins REQUIREMENTS: into .venv, with the files that it includes.
install_pins() {
    local python="$root/.venv/bin/python" stamp="$root/.venv/installed-$1" included
    local pip=("$python" -m pip install -qq --disable-pip-version-check --no-input --no-compile)
    "$python" -m pip --version >/dev/null 2>&1 || create_venv
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' ||
        die ".venv has $("$python" --version), but 3.11 or 3.12 is needed; remove .venv and run this again"
    if [ "$(digest "$1")" = "$(cat "$stamp" 2>/dev/null)" ]; then
        return
    fi
    say "installing the pins of $1 into .venv (the first time takes minutes)"
    # The pip that Python 3.11 brings takes half as long again.
    "${pip[@]}" --upgrade "pip>=25" >&2 || say "pip could not be upgraded; going on with the one that is there"
    # Python compiles what is imported at its first use; compiling every file of every package takes a minute longer.
    "${pip[@]}" -r "$root/$1" >&2 ||
        die "pip could not install $1; see its message above"
    "${pip[@]}" --no-deps --editable "$root" >&2 ||
        die "pip could not install the package itself; see its message above"
    digest "$1" >"$stamp"
    sed -n 's/^-r //p' "$root/$1" | while read -r included; do
        digest "$included" >"$root/.venv/installed-$included"
    done
}

# make_venv REQUIREMENTS: .venv exists and holds these pins when this returns. Two at once wait for each other.
make_venv() {
    (
        if command -v flock >/dev/null; then flock 9; fi
        install_pins "$1" 9>&-
    ) 9>"$root/.venv.lock" || exit
}

# make_libraries: what mediapipe's OpenCV opens when it is imported.
make_libraries() {
    local missing=()
    "$root/.venv/bin/python" -c 'import ctypes; ctypes.CDLL("libGL.so.1")' 2>/dev/null || missing+=(libgl1)
    "$root/.venv/bin/python" -c 'import ctypes; ctypes.CDLL("libgthread-2.0.so.0")' 2>/dev/null || missing+=(libglib2.0-0)
    if [ ${#missing[@]} -gt 0 ]; then
        install_packages "${missing[@]}" || die "${missing[*]} must be installed: faces cannot be found without"
    fi
}
