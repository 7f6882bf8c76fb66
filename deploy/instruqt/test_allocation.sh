#!/bin/sh
# Runs a whole lab against a running broker: claim, repeated claim, user, removal, release. It works with `make up`
# without settings; for any other broker set BROKER_API_URL and BROKER_API_TOKEN. With INFOBLOX_EMAIL, INFOBLOX_PASSWORD
# and CSP_URL it creates and removes a user too. The arguments are an alternative command:
#
#   ./test_allocation.sh                              the scripts beside this one
#   PYTHONPATH=python ./test_allocation.sh python3 -m sandbox_lab
# A trace would print the token.
{ set +x; } 2>/dev/null
set -eu

here=$(cd "$(dirname "$0")" && pwd)
BROKER_API_URL=${BROKER_API_URL:-http://127.0.0.1:8080}
[ -n "${BROKER_API_TOKEN:-}" ] || BROKER_API_TOKEN=$(cat "$here/../../.broker/api-token")
INSTRUQT_PARTICIPANT_ID=${INSTRUQT_PARTICIPANT_ID:-test-$$-$(date +%s)}
INSTRUQT_TRACK_SLUG=${INSTRUQT_TRACK_SLUG:-test-allocation}
LAB_FILES_DIR=$(mktemp -d)
export BROKER_API_URL BROKER_API_TOKEN INSTRUQT_PARTICIPANT_ID INSTRUQT_TRACK_SLUG LAB_FILES_DIR

lab() {
    command=$1
    shift
    if [ $# -gt 0 ]; then "$@" "$command"; else "$here/$command"; fi
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
[ "$(file sandbox_id.txt)" = "$(file external_id.txt)" ]
# shellcheck source=/dev/null
[ "$(. "$LAB_FILES_DIR/sandbox_env.sh" && printf '%s' "$BROKER_SANDBOX_ID")" = "$id" ]

step 'claim again: the same sandbox'
lab allocate "$@"
[ "$(file subtenant_id.txt)" = "$id" ]

if [ -n "${INFOBLOX_EMAIL:-}" ] && [ -n "${INFOBLOX_PASSWORD:-}" ]; then
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
