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
    install_packages "not root on Debian, and there is no ${missing[*]}" "${missing[@]}"
fi
command -v bwrap
