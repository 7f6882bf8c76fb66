#!/usr/bin/env bash
# Puts schemathesis, and a validator of OpenAPI documents, into .tools/schemathesis and prints that folder, which is
# for PYTHONPATH.
#
# Pinned by hashes in schemathesis.requirements.txt. Nothing is installed into the system's Python, and no venv is made:
# some machines have a Python without it. Another Python or another pin means a new folder.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

requirements=$root/tools/schemathesis.requirements.txt
home=$tools/schemathesis
mark=$(python3 -c 'import platform, sys; print(*sys.version_info[:2], platform.machine(), sep=".")')

complete() {
    [[ $(cat "$1/.mark" 2>/dev/null) == "$mark" ]] && cmp -s "$requirements" "$1/.requirements.txt"
}

if ! complete "$home"; then
    mkdir -p "$tools"
    work=$(mktemp -d "$tools/.schemathesis.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "fetching schemathesis into .tools (once)"
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --no-compile --root-user-action=ignore --requirement "$requirements" --target "$work" >&2
    cp "$requirements" "$work/.requirements.txt"
    printf '%s\n' "$mark" >"$work/.mark"
    # Another run may have been quicker; its folder is as good as this one.
    if ! complete "$home"; then
        rm -rf "$home"
        mv "$work" "$home"
    fi
fi
printf '%s\n' "$home"
