#!/usr/bin/env bash
# cupola's training beside PyTorch on this machine: one JSON line per row, then a table.
#
#   bench/train/run.sh [step] [kernels] [time-to-loss] [curve] [--quick] [--table FILE] ...
#
# Without a name all four run; `--help` tells the rest, README.md what the rows mean. Needs cargo, python3 with venv, and
# for torch.compile a C++ compiler. PyTorch is installed once, below the user's cache folder, from pip's configured index.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
command -v cargo >/dev/null || fail "there is no cargo: install Rust (https://rustup.rs)"
command -v python3 >/dev/null || fail "there is no python3"

venv="${XDG_CACHE_HOME:-$HOME/.cache}/cupola/bench/venv"
python="$venv/bin/python"
if ! { [[ -x $python ]] && "$python" -c 'import numpy, torch' 2>/dev/null; }; then
    printf 'installing torch and numpy into %s\n' "$venv" >&2
    python3 -m venv --clear "$venv" || fail "python3 cannot make a virtual environment (on Debian: apt-get install python3-venv)"
    "$python" -m pip install --quiet --disable-pip-version-check --no-input torch numpy >&2 || fail "pip cannot install torch and numpy"
fi

exec "$python" "$here/run.py" "$@"
