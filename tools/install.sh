#!/usr/bin/env bash
# Installs a broker binary and the pinned `nats` client into a folder: tools/install.sh BROKER FOLDER
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

broker=$1
folder=$2

mkdir -p "$folder"
install -m 755 "$broker" "$folder/broker"
say "installed $folder/broker"
code=0
nats=$("$root/tools/nats-cli.sh") || code=$?
case $code in
    0)
        install -m 755 "$nats" "$folder/nats"
        say "installed $folder/nats"
        ;;
    "$left_out") say "the nats client needs Go; everything else works without it" ;;
    *) die "could not build the nats client (code $code)" ;;
esac
case :$PATH: in
    *":$folder:"*) ;;
    *) say "not on the PATH yet: export PATH=\"$folder:\$PATH\"" ;;
esac
