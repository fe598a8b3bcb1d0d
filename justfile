# The commands of daily work; `just` lists them.

set positional-arguments

# This list
default:
    @just --list

# The program, as a user builds it
build:
    cargo build --release

# All tests, those of one crate: `just test -p cupola-nn`
test *args:
    cargo test --release --workspace "$@"

# Format and lints, as the checks want them
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# Format the sources
fmt:
    cargo fmt --all

# From raw text to a served model; arguments go to `cupola run`
quickstart *args:
    cargo run --release -- run recipes/quickstart/recipe.toml "$@"

# What this machine can do, and how fast the matrix products are
bench:
    cargo run --release -- doctor
    cargo run --release -p cupola-kernels --example bench_gemm

# Training beside PyTorch, e.g. `just bench-train step --quick`
bench-train *args:
    bench/train/run.sh "$@"

# The kernels' working memory checked too: their tests with debug assertions, among them those with fenced slices
test-checked:
    CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test -p cupola-kernels

# Every memory access of the portable kernels, slowly (name a test, e.g. `just miri -- scans`); needs `rustup component add miri rust-src --toolchain nightly`
miri *args:
    MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-permissive-provenance -Zmiri-ignore-leaks" \
        cargo +nightly miri test -p cupola-kernels --test sizes --test sizes_layers "$@"

# Licences, advisories and sources of the dependencies; needs cargo-deny
deny:
    cargo deny check

# Everything that must hold before a change is accepted
ci:
    .ci/run
