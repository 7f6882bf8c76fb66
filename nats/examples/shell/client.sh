#!/bin/sh
# A client of the sandbox broker on NATS, with the `nats` command: claims a sandbox, reads it, extends its lease and
# releases it. The settings come from the environment (`nats` itself reads NATS_URL, NATS_USER and NATS_PASSWORD); see
# README.md in the folder above.
set -eu

# Not the server of a `nats context`.
export NATS_URL="${NATS_URL:-nats://127.0.0.1:4222}"
OWNER=${OWNER:-example-shell-$(date +%s)-$$}
attempt_seconds=2
ends=$(($(date +%s) + 90))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

die() {
    echo "client.sh: $*" >&2
    exit 1
}

# The value of a header of the last reply. `nats req` logs headers after the time of day, and prints the body alone.
header() {
    sed -n "s/^[0-9:]* $1: //p" "$work/log"
}

# A plain field of the last reply's body: no need for a JSON parser here.
field() {
    sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" "$work/body"
}

# ask VERB REQUEST-ID BODY [KEY]: repeats the request until the answer is no temporary failure. All attempts have the same
# body, key and request id. The answer is in $work; returns 1 if it is a failure.
ask() {
    attempt=0
    while :; do
        attempt=$((attempt + 1))
        # 0.1 to 0.5 s, so that clients that failed together do not repeat together.
        pause=0.$(($(od -An -N1 -tu1 /dev/urandom) % 5 + 1))
        # `nats req` exits with 0 for every answer; it fails only without a server.
        nats req "sandbox.v1.$1" "$3" --no-templates --timeout "${attempt_seconds}s" \
            ${NATS_USER:+--inbox-prefix "_INBOX.$NATS_USER"} \
            -H "X-Request-ID:$2" -H "Sandbox-Deadline-Ms:$((($(date +%s) + attempt_seconds) * 1000))" \
            ${4:+-H "Idempotency-Key:$4"} >"$work/body" 2>"$work/log" || die "$(cat "$work/log")"
        if [ -z "$(tr -d '\n' <"$work/body")" ]; then
            # No worker is subscribed, or the request or its reply was lost: it may have been carried out.
            code=nothing
        elif [ -z "$(header Nats-Service-Error-Code)" ]; then
            return 0
        else
            code=$(field code)
            case $code in
                POOL_EXHAUSTED | CONTENDED | NO_WORKERS | NOT_HERE | STORE_UNAVAILABLE | UPSTREAM_UNAVAILABLE | TIMEOUT)
                    pause=$(($(field retry_after) + 0)).${pause#0.}
                    ;;
                INTERNAL_ERROR) [ "$attempt" = 1 ] || return 1 ;;
                *) return 1 ;;
            esac
        fi
        [ "$(date +%s)" -lt "$ends" ] || die "$1: out of time: $code"
        echo "$1: attempt $attempt: $code; again in $pause s" >&2
        sleep "$pause"
    done
}

# The same for requests that must succeed.
must() {
    ask "$@" || die "$1: $(cat "$work/body")"
}

must allocate "$OWNER-claim" "{\"owner\":\"$OWNER\",\"lab\":\"nats-examples\"}" first
first=$(cat "$work/body") id=$(field sandbox_id) expires=$(field expires_at) epoch=$(field lease_epoch)
echo "claimed $id $(header Sandbox-Outcome)"
mine="{\"owner\":\"$OWNER\",\"sandbox_id\":\"$id\"}"

# A repeat of the claim returns the same lease and no second sandbox.
must allocate "$OWNER-again" "{\"owner\":\"$OWNER\",\"lab\":\"nats-examples\"}" first
[ "$(header Sandbox-Outcome) $(cat "$work/body")" = "existing $first" ] || die "a repeated claim is another one"

must get "$OWNER-get" "$mine"
[ "$(field status)" = allocated ] || die "not mine: $(cat "$work/body")"

must extend "$OWNER-extend" "{\"owner\":\"$OWNER\",\"sandbox_id\":\"$id\",\"lab_duration_hours\":5,\"lease_epoch\":$epoch}"
[ "$(field expires_at)" -gt "$expires" ] || die "the lease did not get longer"

# Another owner is refused, and a repeat would not help: ask returns at once.
if ask get "$OWNER-stranger" "{\"owner\":\"another-owner\",\"sandbox_id\":\"$id\"}"; then die "a stranger was not refused"; fi
[ "$(field code)" = NOT_SANDBOX_OWNER ] || die "a stranger was refused otherwise: $(cat "$work/body")"

must release "$OWNER-release" "$mine"
released=$(cat "$work/body")
must release "$OWNER-release-again" "$mine"
[ "$(cat "$work/body")" = "$released" ] || die "a repeated release has another answer"
echo "released $id"
