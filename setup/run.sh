#!/bin/sh
# Set .venv up with a Python that can do it, or say in one line what to change: sh setup/run.sh PYTHON EXTRA
# In sh, since the Python that is found may be too old to read the rest.
set -eu
python=$1 extra=$2
needed="cutlayer needs Python 3.10 to 3.13"

refuse() {
  echo "$*" >&2
  exit 2
}

other_python() { # the newest on PATH that would do, or an example
  for version in 3.13 3.12 3.11 3.10; do
    case $("python$version" --version 2>/dev/null) in
      "Python $version."*) echo "python$version" && return ;;
    esac
  done
  echo python3.12
}

case $(uname -s) in
  MINGW* | MSYS* | CYGWIN*) refuse "cutlayer does not run on native Windows: use WSL (docs/install.md)." ;;
esac
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || found=none
case $found in
  3.10 | 3.11 | 3.12 | 3.13) ;;
  none) refuse "$python was not found, or does not start; $needed. Name one: make demo PYTHON=$(other_python)" ;;
  *) refuse "$python is Python $found; $needed. Name another: make demo PYTHON=$(other_python)" ;;
esac
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  refuse "$python cannot make virtual environments: apt-get install python$found-venv (Debian, Ubuntu), then run make again."
exec "$python" -m setup.environment "$extra"
