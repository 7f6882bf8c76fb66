# shellcheck shell=sh
# One HTTP call, and its repetition until there is a usable answer. Sourced after lab.sh; $lab_lib is this file's folder.

# The system's own limit on what one answer may take, in blocks of 512 bytes (of 1024 in bash): body and headers.
ANSWER_BLOCKS_MAX=192
http_return=$(printf '\r')
http_newline='
'

# Calls $1 (method) $2 (URL) with the token $3 (or none) and the JSON body $4 (or none), and with the lines of
# $http_headers. Sets http_status (000: no answer), http_body, http_retry_after and http_problem.
http_request() {
    http_status=000
    http_retry_after=
    http_head=
    http_body=
    http_problem=
    http_run "$@"
    if [ "$http_code" -ne 0 ]; then
        http_explain_code
        return
    fi
    http_body=${http_answer%"$http_newline"*}
    # Interim answers and those of a proxy come before the final one.
    while :; do
        case $http_body in
            HTTP/*) http_split || break ;;
            *) break ;;
        esac
    done
    if [ "${#http_body}" -gt "$BODY_BYTES_MAX" ]; then
        http_problem=$TOO_LARGE
        return
    fi
    http_status=${http_answer##*"$http_newline"}
    http_retry_after=$(printf '%s\n' "$http_head" | tr -d '\r' |
        sed -n 's/^[Rr][Ee][Tt][Rr][Yy]-[Aa][Ff][Tt][Ee][Rr]:[[:blank:]]*\([0-9]\{1,9\}\)[[:blank:]]*$/\1/p' |
        sed -n '$s/^0*\([0-9]\)/\1/p')
}

# Sets http_code to curl's exit code, and http_answer to the headers, the body and the status. The answer goes
# through a deleted file, because a shell that waits for a pipe does not handle signals.
http_run() {
    http_open
    http_config "$@" | (
        # Curl itself limits only bodies with a declared length.
        trap '' XFSZ
        ulimit -f "$ANSWER_BLOCKS_MAX" || :
        exec curl -q --silent --include --globoff --max-filesize "$BODY_BYTES_MAX" \
            --connect-timeout "$LAB_CONNECT_SECONDS" --max-time "$LAB_TIMEOUT_SECONDS" \
            --write-out '\n%{http_code}' --config -
    ) >&3 &
    lab_wait_for $!
    http_code=$lab_code
    # Shell variables cannot contain a zero byte.
    http_answer=$(tr -d '\000' <&4)
    exec 3>&- 4<&-
}

# Opens an empty, deleted file for writing as 3 and for reading as 4. In memory if possible, so that a host with a full
# disk can release its sandbox.
http_open() {
    for http_folder in /dev/shm "$LAB_FILES_DIR"; do
        lab_temp=$http_folder/.answer.$$.tmp
        [ "$http_folder" = /dev/shm ] || rm -f "$lab_temp"
        # It did not exist before, so it is no link of another user.
        if (umask 077 && set -C && : >"$lab_temp") 2>/dev/null; then
            exec 3>"$lab_temp" 4<"$lab_temp"
            rm -f "$lab_temp"
            lab_temp=
            return
        fi
    done
    lab_temp=
    fail 'there is no place for an answer'
}

# Prints the call of http_request as a curl configuration, for curl's standard input: every user of the machine can read
# the arguments of a process.
http_config() {
    http_option request "$1"
    http_option url "$2"
    [ -z "$3" ] || http_option header "Authorization: Bearer $3"
    http_option header 'Accept: application/json'
    if [ -n "$4" ]; then
        http_option header 'Content-Type: application/json'
        http_option data-raw "$4"
    elif [ "$1" = POST ]; then
        http_option header 'Content-Type:'
        http_option data-raw ''
    fi
    [ -z "$http_headers" ] || printf '%s\n' "$http_headers" | while IFS= read -r http_line; do
        http_option header "$http_line"
    done
}

# Moves the headers at the beginning of http_body to http_head. Lines may end without a carriage return.
http_split() {
    http_end=$http_newline$http_newline
    http_head=${http_body%%"$http_end"*}
    http_other=${http_body%%"$http_newline$http_return$http_newline"*}
    if [ "${#http_other}" -lt "${#http_head}" ]; then
        http_end=$http_newline$http_return$http_newline
        http_head=$http_other
    fi
    [ "$http_head" != "$http_body" ] || return 1
    http_body=${http_body#"$http_head$http_end"}
}

http_option() {
    case $2 in
        *[\\\"]*) printf '%s = "%s"\n' "$1" "$(lab_escaped "$2")" ;;
        *) printf '%s = "%s"\n' "$1" "$2" ;;
    esac
}

http_explain_code() {
    case $http_code in
        6) http_problem='the name of the server is unknown' ;;
        7) http_problem='the server cannot be reached' ;;
        18 | 52 | 55 | 56) http_problem='the connection was cut' ;;
        23 | 63) http_problem=$TOO_LARGE ;;
        28) http_problem='no answer in time' ;;
        35 | 60) http_problem='no secure connection' ;;
        *) http_problem="no answer (curl says $http_code)" ;;
    esac
}

# Sets json_value to the value below $1 in the last answer. Returns 1 if that is not JSON.
json_get() {
    json_value=$(printf '%s' "$http_body" | awk -v get="$1" -f "$lab_lib/json.awk" && printf x) || return 1
    json_value=${json_value%x}
}

# Sets json_value to the id of the object in `results` of the last answer whose $1 is $2.
json_find() {
    json_value=$(printf '%s' "$http_body" |
        WANTED=$2 awk -v list=results -v key="$1" -f "$lab_lib/json.awk" && printf x) || return 1
    json_value=${json_value%x}
}

# Repeats the call of http_request until its status is in $http_accepted and $http_reader can read the answer.
# Returns 1 after an answer that will not change, or when the script's time has passed.
http_call() {
    http_backoff_ms=$LAB_BACKOFF_MS
    while :; do
        http_request "$@"
        http_judge "$3"
        case $http_verdict in
            done) return 0 ;;
            final)
                say "$http_problem"
                return 1
                ;;
        esac
        lab_clock
        if [ "$lab_now" -ge "$lab_deadline" ]; then
            say "$http_problem; gave up after $LAB_WAIT_SECONDS s"
            return 1
        fi
        http_choose_wait
        say "$http_problem; next try in $((http_wait_ms / 1000)).$((http_wait_ms % 1000 / 100)) s"
        lab_pause "$http_wait_ms"
    done
}

# Sets http_verdict to done, again or final, and http_problem to a description for people. $1 is the token.
http_judge() {
    http_verdict=again
    [ "$http_status" != 000 ] || return 0
    case " $http_accepted " in
        *" $http_status "*)
            http_problem="an answer that cannot be read ($http_status)"
            ! "$http_reader" || http_verdict=done
            return 0
            ;;
    esac
    http_code_word=
    if json_get detail.code; then
        case $json_value in
            *[!A-Z_]*) ;; # It is none of the broker's.
            *) http_code_word=$json_value ;;
        esac
    fi
    http_describe "$1"
    case $http_status in
        408 | 425 | 429 | 5??) ;;
        409)
            # A proxy may drop the header; the body has the value too.
            if [ -z "$http_retry_after" ] && [ "$http_code_word" != POOL_EXHAUSTED ] ||
                [ "$http_waits_for_pool" = no ]; then
                http_verdict=final
            fi
            ;;
        # A refusal of the broker is JSON. Any other answer comes from a proxy, which may let the next attempt through.
        403) ! json_get x || http_verdict=final ;;
        *) http_verdict=final ;;
    esac
}

# Sets http_problem to the text of the answer. $1 is the token that was sent.
http_describe() {
    http_problem="answer $http_status"
    [ -z "$http_code_word" ] || lab_tells_a_secret "$http_code_word" || http_problem="$http_problem $http_code_word"
    # A call without a token carries a password.
    [ -n "$1" ] || return 0
    json_get detail.message || return 0
    http_message=$(printf '%s' "$json_value" | tr -cd ' -~')
    # Checks all of the text, and not only the beginning: half a secret is a secret, too.
    [ -z "$http_message" ] || lab_tells_a_secret "$http_message" ||
        http_problem="$http_problem: $(printf '%s' "$http_message" | cut -c 1-200)"
}

# Sets http_wait_ms to the answer's Retry-After, otherwise to twice the last pause; never beyond the script's time.
http_choose_wait() {
    lab_draw
    if [ -n "$http_retry_after" ]; then
        [ "$http_retry_after" -le "$LAB_RETRY_AFTER_MAX_SECONDS" ] || http_retry_after=$LAB_RETRY_AFTER_MAX_SECONDS
        # Plus a small random time, so that callers with the same advice do not return together.
        http_wait_ms=$((http_retry_after * 1000 + LAB_BACKOFF_MS / 2 + lab_random * (LAB_BACKOFF_MS / 2) / 65536))
    else
        http_wait_ms=$((http_backoff_ms / 2 + lab_random * (http_backoff_ms / 2) / 65536))
        http_backoff_ms=$((http_backoff_ms * 2))
        [ "$http_backoff_ms" -le "$LAB_BACKOFF_MAX_MS" ] || http_backoff_ms=$LAB_BACKOFF_MAX_MS
    fi
    http_left_ms=$(((lab_deadline - lab_now) * 1000))
    [ "$http_wait_ms" -le "$http_left_ms" ] || http_wait_ms=$http_left_ms
}
