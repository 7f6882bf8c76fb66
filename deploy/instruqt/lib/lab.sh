# shellcheck shell=sh
# Shared by the four scripts: settings, messages, the clock, and atomic files. Sourced, never run. Needs a POSIX system
# and curl. Variables cannot be local, so each name has a prefix.

set +x # A trace would print tokens and passwords.
set -u
# Bytes stay bytes, and ranges in patterns mean ASCII.
LC_ALL=C
export LC_ALL

# The maximum size of a body. The largest real ones have a few kilobytes.
BODY_BYTES_MAX=65536
TOO_LARGE='the answer is too large'

# Open the closed standard streams, so that the next opened file does not get their numbers.
(: >&2) || exec 2>/dev/null
(: <&0) 2>/dev/null || exec </dev/null
(: >&1) 2>/dev/null || exec >/dev/null

# If a message cannot be written, the outcome does not change.
say() {
    printf '%s: %s\n' "$lab_name" "$*" >&2 || :
}

fail() {
    say "$@"
    exit 1
}

# Checks what every script needs first. $1 is the name at the beginning of messages.
lab_begin() {
    lab_name=$1
    trap 'lab_end' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    lab_temp=
    lab_child=
    lab_secrets=
    lab_keep_secret "${BROKER_API_TOKEN:-}"
    lab_keep_secret "${INFOBLOX_PASSWORD:-}"
    command -v curl >/dev/null || fail 'curl is not installed'
    lab_number LAB_WAIT_SECONDS 600
    lab_number LAB_TIMEOUT_SECONDS 30
    lab_not_zero LAB_TIMEOUT_SECONDS
    lab_number LAB_CONNECT_SECONDS 5
    lab_not_zero LAB_CONNECT_SECONDS
    lab_number LAB_BACKOFF_MS 1000
    lab_number LAB_BACKOFF_MAX_MS 30000
    lab_number LAB_RETRY_AFTER_MAX_SECONDS 60
    LAB_FILES_DIR=${LAB_FILES_DIR:-.}
    [ -d "$LAB_FILES_DIR" ] || fail "LAB_FILES_DIR: there is no folder $LAB_FILES_DIR"
    # Otherwise a name could be taken for an option.
    case $LAB_FILES_DIR in
        /*) ;;
        *) LAB_FILES_DIR=./$LAB_FILES_DIR ;;
    esac
    lab_clock
    lab_deadline=$((lab_now + LAB_WAIT_SECONDS))
}

lab_end() {
    [ -z "$lab_child" ] || kill "$lab_child" 2>/dev/null || :
    [ -z "$lab_temp" ] || rm -f "$lab_temp"
}

# Waits for the process $1 of this script, which ends with the script, and sets lab_code to its exit code. The shell
# handles signals at once here; with a process in the foreground it would handle them only after that.
lab_wait_for() {
    lab_child=$1
    lab_code=0
    wait "$lab_child" || lab_code=$?
    lab_child=
}

# From now on, no answer with $1 is printed.
lab_keep_secret() {
    [ -z "$1" ] || lab_secrets="$lab_secrets$1
"
}

# Whether $1, one line, contains a secret.
lab_tells_a_secret() {
    ! printf '%s%s\n' "$lab_secrets" "$1" | awk -f "$lab_lib/secret.awk"
}

# Sets the variable named $1 to its value or to $2, and ends the script unless that is a whole number.
lab_number() {
    eval "lab_value=\${$1:-$2}"
    case $lab_value in
        *[!0-9]* | ??????????*) fail "$1 must be a whole number with at most 9 digits" ;;
    esac
    while :; do
        case $lab_value in
            0?*) lab_value=${lab_value#0} ;; # Else it would count as octal.
            *) break ;;
        esac
    done
    eval "$1=\$lab_value"
}

lab_not_zero() {
    eval "[ \"\$$1\" -gt 0 ]" || fail "$1 must be at least 1"
}

# Ends the script unless $2, the value of the variable named $1, is the URL of a server: scheme, host, perhaps a port
# and a path. It may hold a secret and is not printed.
lab_url() {
    lab_place=${2#http://}
    lab_place=${lab_place#https://}
    lab_place=${lab_place%%/*}
    lab_port=80
    case $lab_place in
        \[*\]:*) lab_port=${lab_place##*:} lab_host=${lab_place%:*} ;;
        \[*) lab_host=$lab_place ;;
        *:*) lab_port=${lab_place#*:} lab_host=${lab_place%%:*} ;;
        *) lab_host=$lab_place ;;
    esac
    case $lab_host in
        \[*\]) lab_host=${lab_host#?} lab_host=${lab_host%?} lab_odd='*[!0-9A-Za-z:.%]*' ;;
        *) lab_odd='*[!0-9A-Za-z._-]*' ;;
    esac
    case $2 in
        *[!!-~]* | *[?#]*) lab_host= ;;
    esac
    # shellcheck disable=SC2254 # It is a pattern.
    case $lab_host in
        '' | $lab_odd) fail "$1 is no URL of a server" ;;
    esac
    case $lab_port in
        '' | *[!0-9]* | ??????*) lab_port=0 ;;
    esac
    [ "$lab_port" -gt 0 ] && [ "$lab_port" -le 65535 ] || fail "$1 names no port from 1 to 65535"
}

# Ends the script unless the variable named $1 has a value that can stand in a header.
lab_required() {
    eval "lab_value=\${$1:-}"
    [ -n "$lab_value" ] || fail "$1 is not set"
    lab_header_safe "$1" "$lab_value"
}

lab_header_safe() {
    case $2 in
        *[[:cntrl:]]* | ' '* | *' ') fail "$1 holds characters that cannot be sent" ;;
    esac
}

# Sets lab_now to the seconds of a monotonic clock, if there is one.
lab_clock() {
    if [ -r /proc/uptime ]; then
        read -r lab_now lab_rest </proc/uptime
        : "$lab_rest"
        lab_now=${lab_now%%.*}
    else
        lab_now=$(date +%s)
    fi
}

# Sets lab_random to a number from 0 to 65535.
lab_draw() {
    lab_random=$(od -An -v -tu2 -N2 /dev/urandom | tr -cd 0-9)
    lab_random=${lab_random:-0}
}

# Waits for $1 milliseconds.
lab_pause() {
    lab_fraction=000$(($1 % 1000))
    lab_fraction=${lab_fraction#"${lab_fraction%???}"}
    # POSIX promises whole seconds only.
    sleep "$(($1 / 1000)).$lab_fraction" >/dev/null 2>&1 &
    lab_wait_for $!
    [ "$lab_code" -eq 0 ] || {
        sleep $((($1 + 999) / 1000)) >/dev/null 2>&1 &
        lab_wait_for $!
    }
}

# Escapes what ends a string, for JSON and for curl's configuration alike. The text has no control characters.
lab_escaped() {
    printf '%s\n' "$1" | sed 's/[\\"]/\\&/g'
}

# Sets lab_quoted to $1 as one quoted word of the shell, whatever its content.
lab_quote() {
    lab_quoted=$1
    case $1 in
        *"'"*)
            # The x keeps line ends at the end of the text.
            lab_quoted=$(printf '%sx' "$1" | sed "s/'/'\\\\''/g")
            lab_quoted=${lab_quoted%x}
            ;;
    esac
    lab_quoted="'$lab_quoted'"
}

# Adds a line to lab_exports that sets $1 to $2.
lab_export() {
    lab_quote "$2"
    lab_exports="${lab_exports}export $1=$lab_quoted
"
}

# Sets lab_text to the content of the file $1 without blanks around it; empty if there is no such file.
lab_read() {
    lab_text=
    [ -e "$LAB_FILES_DIR/$1" ] || return 0
    lab_text=$(cat "$LAB_FILES_DIR/$1" 2>/dev/null) || fail "cannot read $1"
    lab_text=${lab_text#"${lab_text%%[![:space:]]*}"}
    lab_text=${lab_text%"${lab_text##*[![:space:]]}"}
}

# Replaces the file $1 atomically by the text $3, with mode $2: a reader sees the old or the new content.
lab_put() {
    lab_compose "$@"
    # `mv` would move it into a folder of that name.
    [ ! -d "$LAB_FILES_DIR/$1" ] && mv -f "$lab_temp" "$LAB_FILES_DIR/$1" || fail "cannot write $1"
    lab_temp=
}

# As lab_put, but an existing file stays unchanged, also one that another process creates at this moment.
lab_put_new() {
    lab_compose "$@"
    [ -e "$LAB_FILES_DIR/$1" ] || ln "$lab_temp" "$LAB_FILES_DIR/$1" 2>/dev/null || [ -e "$LAB_FILES_DIR/$1" ] ||
        fail "cannot write $1"
    rm -f "$lab_temp"
    lab_temp=
}

# Removes the files of a user: the address last, because the user can be found by it.
lab_forget_user() {
    lab_user=$LAB_FILES_DIR/user_
    rm -f "${lab_user}credentials.sh" "${lab_user}password.txt" "${lab_user}id.txt" "${lab_user}sandbox_id.txt" \
        "${lab_user}email.txt" || fail 'cannot remove the files of the user'
}

lab_compose() {
    lab_temp=$LAB_FILES_DIR/.$1.$$.tmp
    (umask 077 && printf '%s' "$3" >"$lab_temp") && chmod "$2" "$lab_temp" || fail "cannot write $1"
}

# Whether $1 is valid as one segment of a URL's path.
lab_is_id() {
    case $1 in
        '' | .* | *[!A-Za-z0-9._-]*) return 1 ;;
    esac
}
