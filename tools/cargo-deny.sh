#!/usr/bin/env bash
# Prints the path of cargo-deny in the pinned version, building it into .tools if it is neither there nor on the PATH.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Its Python package stops at 0.14, which cannot read what today's cargo says about a workspace.
version=0.20.2
binary=$tools/bin/cargo-deny

is_pinned() {
    [[ $("$1" --version 2>/dev/null || true) == "cargo-deny $version" ]]
}

if is_pinned cargo-deny; then
    command -v cargo-deny
    exit
fi
if ! is_pinned "$binary"; then
    mkdir -p "$tools"
    say "building cargo-deny $version into .tools (once; a minute or two)"
    # It runs for two seconds, so it is built for a short build and not for a fast program; and in a folder of its own,
    # so that it neither waits for a build of the workspace nor leaves anything in its target folder.
    work=$(mktemp -d "$tools/.cargo-deny.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    CARGO_TARGET_DIR=$work CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 RUSTFLAGS='' \
        cargo install --quiet --locked --force --no-default-features --root "$tools" --version "=$version" cargo-deny >&2
fi
is_pinned "$binary" || die "cargo-deny $version was built but does not run"
printf '%s\n' "$binary"
