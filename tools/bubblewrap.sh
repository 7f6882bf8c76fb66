#!/usr/bin/env bash
# Prints the wrapper of the engine `namespaces`, and installs it if it is missing (Debian's package bubblewrap). Starts nothing.
#
# Needs root on Debian to install it; else it ends with code 3.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if ! command -v bwrap >/dev/null; then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        say "left out: not root on Debian, and there is no bwrap"
        exit "$left_out"
    fi
    # What apt says is for the terminal; two runs at once wait for each other.
    apt() {
        DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >&2
    }
    install=(apt install -y --no-install-recommends bubblewrap)
    "${install[@]}" || { apt update && "${install[@]}"; }
fi
command -v bwrap
