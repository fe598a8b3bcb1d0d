#!/usr/bin/env bash
# cupola's data stage beside its peers on this machine: one JSON line per row, then a table.
#
#   bench/data/run.sh [PART]... [--quick] [--rounds N] [--table FILE]
#
# Without a name all parts run; `--help` names them, README.md tells what the rows mean. Needs cargo and python3 with venv.
# The peers are installed once, below the user's cache folder, from pip's configured index.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
command -v cargo >/dev/null || fail "there is no cargo: install Rust (https://rustup.rs)"
command -v python3 >/dev/null || fail "there is no python3"

venv="${XDG_CACHE_HOME:-$HOME/.cache}/cupola/bench/data-venv"
python="$venv/bin/python"
if ! [[ -x $python ]]; then
    python3 -m venv --clear "$venv" || fail "python3 cannot make a virtual environment (on Debian: apt-get install python3-venv)"
fi

exec "$python" "$here/run.py" "$@"
