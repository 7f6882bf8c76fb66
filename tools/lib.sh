# shellcheck shell=bash
# What the scripts of this folder share. Sourced, never run; kept to what bash 3.2 knows, which is what macOS has.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that is fetched lands here, and is ignored by git. `rm -rf .tools` is always safe.
# shellcheck disable=SC2034  # Used by the scripts that source this file.
tools=$root/.tools

# An optional tool whose prerequisites are not on this machine ends its script with this code: left out, not broken.
# shellcheck disable=SC2034
left_out=3

# Says something to the person at the terminal. Standard output is kept for answers that other programs read.
say() {
    printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
}

# Ends the script with an error.
die() {
    say "$@"
    exit 1
}

# Whether version $1 is at least $2; both are numbers with dots, a `v` in front and any tail are ignored.
at_least() {
    local have want i
    IFS=. read -r -a have <<<"$(printf '%s' "$1" | sed -E 's/^v?([0-9.]+).*/\1/')"
    IFS=. read -r -a want <<<"$2"
    for i in "${!want[@]}"; do
        [[ ${have[i]:-0} =~ ^[0-9]+$ ]] || return 1
        ((10#${have[i]:-0} > 10#${want[i]})) && return 0
        ((10#${have[i]:-0} < 10#${want[i]})) && return 1
    done
    return 0
}

# Installs Debian packages. Where that needs rights or a system that are not there, the script is left out: $1 says why, the rest are
# packages.
install_packages() {
    local why=$1
    shift
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        say "left out: $why"
        exit "$left_out"
    fi
    apt install -y --no-install-recommends --no-upgrade "$@" ||
        { apt update && apt install -y --no-install-recommends --no-upgrade "$@"; }
}

# Downloads the file of a Debian package into the current folder.
download_package() {
    apt -o APT::Sandbox::User=root download "$1" || { apt update && apt -o APT::Sandbox::User=root download "$1"; }
}

# What apt says is for the terminal; two runs at once wait for each other.
apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >&2
}
