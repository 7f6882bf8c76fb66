# shellcheck shell=sh
# The broker's two calls. Sourced after lab.sh and http.sh.

# A file that exists while there may be a claim that no other file records.
PENDING=allocation_pending.txt
# No sandbox has such a name, so the answer to a claim for it is the owner's existing sandbox, or none.
NO_PREFIX=no-sandbox-has-this-name

broker_begin() {
    lab_required BROKER_API_TOKEN
    lab_required INSTRUQT_PARTICIPANT_ID
    lab_required BROKER_API_URL
    case $BROKER_API_URL in
        http://?* | https://?*) ;;
        *) fail 'BROKER_API_URL must begin with http:// or https://' ;;
    esac
    lab_url BROKER_API_URL "$BROKER_API_URL"
    broker_base=${BROKER_API_URL%/}
    broker_base=${broker_base%/v1}/v1
}

# Claims a sandbox whose name begins with $1, with the participant's key: however often, and however many processes
# claim at once, there is one sandbox. Sets broker_id, broker_external_id, broker_name and broker_sfdc.
broker_claim() {
    http_headers="X-Instruqt-Sandbox-ID: $INSTRUQT_PARTICIPANT_ID
Idempotency-Key: $INSTRUQT_PARTICIPANT_ID
X-Instruqt-Track-ID: ${INSTRUQT_TRACK_SLUG:-unknown-lab}${1:+
X-Sandbox-Name-Prefix: $1}"
    http_accepted='200 201'
    http_reader=broker_read_claim
    http_call POST "$broker_base/allocate" "$BROKER_API_TOKEN" ''
}

broker_read_claim() {
    json_get sandbox_id && lab_is_id "$json_value" || return 1
    broker_id=$json_value
    json_get external_id || return 1
    broker_external_id=${json_value##*/}
    lab_is_id "$broker_external_id" || return 1
    json_get name || return 1
    broker_name=$json_value
    json_get sfdc_account_id || return 1
    broker_sfdc=$json_value
}

# Releases the sandbox $1. A sandbox that is deleted, or being deleted, counts as released.
broker_release() {
    http_headers="X-Instruqt-Sandbox-ID: $INSTRUQT_PARTICIPANT_ID"
    http_accepted='200 404 410'
    http_reader=broker_read_release
    http_waits_for_pool=no
    http_call POST "$broker_base/sandboxes/$1/mark-for-deletion" "$BROKER_API_TOKEN" ''
}

# Only an answer of the broker itself counts: a page of a proxy says nothing about the sandbox.
broker_read_release() {
    if [ "$http_status" = 200 ]; then
        json_get sandbox_id
    else
        json_get detail.code
    fi && [ -n "$json_value" ]
}
