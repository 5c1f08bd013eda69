#!/bin/sh
# Builds policies of this workspace for wasm32-unknown-unknown, in release mode, and prints the paths of the core
# modules, one a line. `landfall policy componentize` makes components of them.
#
# Usage: plugins/build.sh [package ...]        all policies, if none is named
set -eu

target=wasm32-unknown-unknown
# A server that does not answer must not hold up a build that can be done in another way.
rustup_seconds_max=60

plugins=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$plugins")
cd "$plugins"

# Outside of the checkout, so that no module is committed by mistake.
CARGO_TARGET_DIR=${LANDFALL_PLUGINS_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/landfall/plugins-target}
export CARGO_TARGET_DIR

# Panics name the file they come from. With the builder's folders in there, two machines would build different bytes.
RUSTFLAGS="--remap-path-prefix=$root=landfall --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
export RUSTFLAGS

say() {
    printf 'plugins/build.sh: %s\n' "$*" >&2
}

# Every member but the library.
if [ $# -eq 0 ]; then
    # shellcheck disable=SC2046 # a list of names
    set -- $(sed -n 's/^members = \[\(.*\)\]$/\1/p' Cargo.toml | tr -d '",' | tr ' ' '\n' | grep -vx sdk)
fi

# Asks rustc's own folder, for rustc need not come from rustup.
target_is_there() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]
}

add_target() {
    command -v rustup >/dev/null && timeout "$rustup_seconds_max" rustup target add "$target" >&2
}

# Debian and Ubuntu have the standard library's source and a linker for WebAssembly, but no target that is built already.
add_debian_toolchain() {
    if [ -x /usr/bin/cargo ] && [ -x /usr/bin/wasm-ld ]; then
        return
    fi
    command -v apt-get >/dev/null && apt-get install -y --no-install-recommends rustc-web rust-web-src cargo-web lld >&2
}

build() {
    for package; do
        set -- "$@" --package "$package"
        shift
    done
    # shellcheck disable=SC2086 # build_std may be no argument at all
    "${cargo:-cargo}" build --release --locked --target "$target" ${build_std:-} "$@" >&2
}

if command -v rustc >/dev/null && { target_is_there || add_target; }; then
    build "$@"
elif say "rustup provides no $target; trying Debian's toolchain" && add_debian_toolchain; then
    PATH=/usr/bin:$PATH
    RUSTC=/usr/bin/rustc
    # -Zbuild-std is for nightly compilers only, unless this is set.
    RUSTC_BOOTSTRAP=1
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld
    export PATH RUSTC RUSTC_BOOTSTRAP CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER
    cargo=/usr/bin/cargo build_std=-Zbuild-std=std,panic_abort
    build "$@"
else
    say "no compiler for $target; install it with: rustup target add $target"
    exit 1
fi

for package; do
    printf '%s\n' "$CARGO_TARGET_DIR/$target/release/$(printf %s "$package" | tr - _).wasm"
done
