#!/bin/sh
# Prints the Python to set up with: the one given, else the first on this machine that fits the locks.
#   requirements/python.sh [PYTHON]
# Looks at python3, then at python3.11, 3.12 and 3.13 on PATH, then at pyenv's and uv's. Where none fits: one line, status 1.
fits() {
    # A PATH entry may be pyenv's shim of a version that is switched off; Debian's python3 may lack venv.
    "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

describe() {
    command -v "$1" >/dev/null 2>&1 || { echo "not found"; return; }
    version=$("$1" -c 'import platform; print(platform.python_version())' 2>/dev/null) || version="not a working Python"
    case $version in
    3.11.* | 3.12.* | 3.13.*) echo "$version without venv (on Debian: the package python${version%.*}-venv)" ;;
    *) echo "$version" ;;
    esac
}

if [ -n "$1" ]; then
    fits "$1" && { command -v "$1"; exit; }
    echo "v05ray needs Python 3.11, 3.12 or 3.13; $1 is $(describe "$1"): give another with make PYTHON=..." >&2
    exit 1
fi
for candidate in python3 python3.11 python3.12 python3.13 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.11.*/bin/python \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.13.*/bin/python \
    "$(uv python find --no-python-downloads '>=3.11,<3.14' 2>/dev/null)"; do
    fits "$candidate" && { command -v "$candidate"; exit; }
done
echo "v05ray needs Python 3.11, 3.12 or 3.13, and python3 is $(describe python3): install one, or give its path with make PYTHON=..." >&2
exit 1
