#!/bin/sh
# Makes fuzz/corpus/read from the fixtures of the readers' tests: every small file, under a byte for each of a few formats.
set -eu
cd "$(dirname "$0")"
mkdir -p corpus/read
for file in $(find ../crates/base/records/tests/formats ../crates/base/records/tests/malformed -type f -size -64k); do
    name=$(echo "$file" | sed 's|.*/tests/||; s|/|-|g')
    for byte in 000 003 006 012 020 030 040 050; do
        { printf "\\$byte"; cat "$file"; } > "corpus/read/$byte-$name"
    done
done
