#!/usr/bin/env bash
# Builds the `nats` command line client into .tools and prints its path.
#
# The recipes in nats/README.md use it, and their test runs where it is. Needs Go; without it, ends with code 3.
# Version and hashes of everything in it are pinned by nats-cli/go.mod and go.sum.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

pin=$root/tools/nats-cli
version=$(sed -nE 's|.*github.com/nats-io/natscli v([0-9.]+).*|\1|p' "$pin/go.mod" | head -n 1)
binary=$tools/nats

if [[ $("$binary" --version 2>/dev/null || true) == "$version" ]]; then
    printf '%s\n' "$binary"
    exit
fi
if ! command -v go >/dev/null; then
    say "left out: no go on the PATH"
    exit "$left_out"
fi

mkdir -p "$tools"
work=$(mktemp -d "$tools/.nats.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "building the nats client $version into .tools (once; a minute or two)"
# `go install …@version` would ask the module proxy for the list of versions, which some proxies refuse; a module of
# our own needs only the files that it names.
(cd "$pin" && GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" \
    -o "$work/nats" github.com/nats-io/natscli/nats >&2)
mv -f "$work/nats" "$binary"
printf '%s\n' "$binary"
