#!/usr/bin/env bash
# Prints the path of a tool for cargo in the pinned version, building it into .tools if it is neither there nor on the
# PATH: tools/cargo-tool.sh deny|machete
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1-} in
# Its Python package stops at 0.14, which cannot read what today's cargo says about a workspace.
deny) version=0.20.2 ;;
machete) version=0.9.2 ;;
*) die "usage: tools/cargo-tool.sh deny|machete" ;;
esac
name=cargo-$1
binary=$tools/bin/$name

is_pinned() {
    # One tool says its name before its version, the other one does not.
    case $("$1" --version 2>/dev/null || true) in
    "$name $version" | "$version") ;;
    *) return 1 ;;
    esac
}

if is_pinned "$name"; then
    command -v "$name"
    exit
fi
if ! is_pinned "$binary"; then
    mkdir -p "$tools"
    say "building $name $version into .tools (once; a minute or two)"
    # It runs for two seconds, so it is built for a short build and not for a fast program; and in a separate folder,
    # so that it neither waits for a build of the workspace nor leaves anything in its target folder.
    work=$(mktemp -d "$tools/.$name.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    CARGO_TARGET_DIR=$work CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 RUSTFLAGS='' \
        cargo install --quiet --locked --force --no-default-features --root "$tools" --version "=$version" "$name" >&2
fi
is_pinned "$binary" || die "$name $version was built but does not run"
printf '%s\n' "$binary"
