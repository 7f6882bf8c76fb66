#!/bin/sh
# Runs a whole lab against a running broker: claim, repeated claim, user, removal, release; shows the files. It works
# with `make up` without settings; for any other broker set BROKER_API_URL and BROKER_API_TOKEN. The argument says what
# runs:
#
#   ./test_allocation.sh                              instruqt_broker_allocation.py and instruqt_broker_cleanup.py
#   ./test_allocation.sh .                            allocate, cleanup and the others in that folder
#   PYTHONPATH=python ./test_allocation.sh python3 -m sandbox_lab
#
# With INFOBLOX_EMAIL, INFOBLOX_PASSWORD and CSP_URL the last two create and remove a user too.
# A trace would print the token.
{ set +x; } 2>/dev/null
set -eu

here=$(cd "$(dirname "$0")" && pwd)
BROKER_API_URL=${BROKER_API_URL:-http://127.0.0.1:8080}
token=$here/../../.broker/api-token
[ -n "${BROKER_API_TOKEN:-}" ] || [ ! -r "$token" ] || BROKER_API_TOKEN=$(cat "$token")
if [ -z "${BROKER_API_TOKEN:-}" ]; then
    echo 'test: set BROKER_API_TOKEN; there is no token of a local broker either' >&2
    exit 1
fi
INSTRUQT_PARTICIPANT_ID=${INSTRUQT_PARTICIPANT_ID:-test-$$-$(date +%s)}
INSTRUQT_TRACK_SLUG=${INSTRUQT_TRACK_SLUG:-test-allocation}
LAB_FILES_DIR=$(mktemp -d)
export BROKER_API_URL BROKER_API_TOKEN INSTRUQT_PARTICIPANT_ID INSTRUQT_TRACK_SLUG LAB_FILES_DIR

lab() {
    command=$1
    shift
    if [ $# -eq 0 ]; then
        [ "$command" != allocate ] || command=allocation
        python3 "$here/instruqt_broker_$command.py"
    elif [ -d "$1" ]; then
        "$1/$command"
    else
        "$@" "$command"
    fi
}

file() {
    cat "$LAB_FILES_DIR/$1"
}

step() {
    printf 'test: %s\n' "$*"
}

# Release the sandbox after any failure.
finish() {
    code=$?
    [ "$code" -eq 0 ] || lab cleanup "$@" || :
    rm -rf "$LAB_FILES_DIR"
    if [ "$code" -eq 0 ]; then step ok; else step FAILED; fi
    exit "$code"
}
trap 'finish "$@"' EXIT

step 'claim a sandbox'
lab allocate "$@"
id=$(file subtenant_id.txt)
[ -n "$id" ]
if [ $# -eq 0 ]; then expected=$id; else expected=$(file external_id.txt); fi
[ "$(file sandbox_id.txt)" = "$expected" ]
# shellcheck source=/dev/null
[ "$(. "$LAB_FILES_DIR/sandbox_env.sh" && printf '%s' "$BROKER_SANDBOX_ID")" = "$id" ]
for name in sandbox_id.txt external_id.txt sandbox_name.txt sandbox_env.sh; do
    printf '%s:\n%s\n' "$name" "$(file "$name")"
done

step 'claim again: the same sandbox'
lab allocate "$@"
[ "$(file subtenant_id.txt)" = "$id" ]

if [ $# -gt 0 ] && [ -n "${INFOBLOX_EMAIL:-}" ] && [ -n "${INFOBLOX_PASSWORD:-}" ]; then
    step 'make a user, and remove it twice'
    lab provision-user "$@"
    [ -n "$(file user_id.txt)" ]
    lab remove-user "$@"
    lab remove-user "$@"
fi

step 'give the sandbox back, twice'
lab cleanup "$@"
lab cleanup "$@"

step 'claim once more: another sandbox'
lab allocate "$@"
[ "$(file subtenant_id.txt)" != "$id" ]
lab cleanup "$@"
