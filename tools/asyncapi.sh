#!/usr/bin/env bash
# Judges the contract's document (nats/asyncapi.json, nats/schemas) by AsyncAPI's own parser and a JSON Schema validator.
#
# Both are pinned by asyncapi/package-lock.json and installed into .tools at the first use. Needs npm; without it, ends
# with code 3.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

pin=$root/tools/asyncapi
home=$tools/asyncapi

complete() {
    cmp -s "$pin/package-lock.json" "$home/package-lock.json" && [[ -d $home/node_modules ]]
}

if ! command -v npm >/dev/null; then
    say "left out: no npm on the PATH"
    exit "$left_out"
fi
if ! complete; then
    mkdir -p "$tools"
    work=$(mktemp -d "$tools/.asyncapi.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    say "fetching AsyncAPI's parser into .tools (once)"
    cp "$pin/package.json" "$pin/package-lock.json" "$work/"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
    if ! complete; then
        rm -rf "$home"
        mv "$work" "$home"
    fi
fi
# Beside its packages, because that is where node looks for them.
cp "$pin/check.mjs" "$home/check.mjs"
node "$home/check.mjs" "${1:-$root/nats}"
