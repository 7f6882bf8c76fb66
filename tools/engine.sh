#!/usr/bin/env bash
# Prints the wrapper of the engine `namespaces`, and installs what that needs and is missing: Debian's packages bubblewrap, and
# passt, nftables and iproute2 for networks. Starts nothing.
#
# Needs root on Debian to install them; else it ends with code 3.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

needed=(bwrap:bubblewrap)
# Only root can make networks.
[[ $(id -u) != 0 ]] || needed+=(pasta:passt nft:nftables ip:iproute2)
missing=()
for each in "${needed[@]}"; do
    command -v "${each%%:*}" >/dev/null || missing+=("${each##*:}")
done
if ((${#missing[@]})); then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        say "left out: not root on Debian, and there is no ${missing[*]}"
        exit "$left_out"
    fi
    # What apt says is for the terminal; two runs at once wait for each other.
    apt() {
        DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >&2
    }
    install=(apt install -y --no-install-recommends "${missing[@]}")
    "${install[@]}" || { apt update && "${install[@]}"; }
fi
command -v bwrap
