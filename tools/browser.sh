#!/usr/bin/env bash
# Puts playwright-core into .tools/browser, and prints that folder and the path of a chromium, a line each.
#
# Needs npm and Node 20 or later, and a `chromium` on the PATH. Where there is none, it is installed if this is Debian (or a
# child of it) and we are root, as in CI and in containers; else this ends with code 3, and the pages are not tested.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

node_minimum=20
pin=$root/tools/browser
home=$tools/browser

# Whether the folder $1 holds what the lock file asks for.
complete() {
    cmp -s "$pin/package-lock.json" "$1/package-lock.json" && [[ -r $1/node_modules/playwright-core/package.json ]]
}

# The browser's name differs from system to system.
browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome
}

if ! command -v npm >/dev/null || ! at_least "$(node --version 2>/dev/null || true)" "$node_minimum"; then
    say "left out: no npm, or no node $node_minimum or later, on the PATH"
    exit "$left_out"
fi
if ! browser >/dev/null; then
    install_packages "no chromium on the PATH" chromium
fi

if ! complete "$home"; then
    mkdir -p "$tools"
    work=$(mktemp -d "$tools/.browser.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    say "fetching playwright-core into .tools (once)"
    cp "$pin/package.json" "$pin/package-lock.json" "$work/"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
    complete "$work" || die "the package playwright-core is not where it was expected"
    # Another run may have been quicker; its folder is as good as this one.
    if ! complete "$home"; then
        rm -rf "$home"
        mv "$work" "$home"
    fi
fi
printf '%s\n' "$home" "$(browser)"
