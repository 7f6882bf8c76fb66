# shellcheck shell=sh
# The part of the provider's user API that a lab needs. Sourced after lab.sh and http.sh.

csp_begin() {
    lab_required INFOBLOX_EMAIL
    [ -n "${INFOBLOX_PASSWORD:-}" ] || fail 'INFOBLOX_PASSWORD is not set'
    case $INFOBLOX_PASSWORD in
        *[[:cntrl:]]*) fail 'INFOBLOX_PASSWORD holds characters that cannot be sent' ;;
    esac
    CSP_URL=${CSP_URL:-csp.infoblox.com}
    case $CSP_URL in
        http://?* | https://?*) csp_base=${CSP_URL%/} ;;
        *) csp_base=https://${CSP_URL%/} ;;
    esac
    lab_url CSP_URL "$csp_base"
    http_headers=
    http_waits_for_pool=no
    csp_token=
}

# Logs in and switches to the account $1. Sets csp_token.
csp_enter() {
    http_accepted='200 201'
    http_reader=csp_read_token
    http_call POST "$csp_base/v2/session/users/sign_in" '' \
        "{\"email\":\"$(lab_escaped "$INFOBLOX_EMAIL")\",\"password\":\"$(lab_escaped "$INFOBLOX_PASSWORD")\"}" &&
        http_call POST "$csp_base/v2/session/account_switch" "$csp_token" "{\"id\":\"identity/accounts/$1\"}"
}

csp_read_token() {
    json_get jwt || return 1
    case $json_value in
        '' | *[!!-~]*) return 1 ;;
    esac
    csp_token=$json_value
    lab_keep_secret "$csp_token"
}

# Sets csp_group_user and csp_group_admin. A fresh account may show its groups a moment late.
csp_groups() {
    http_accepted=200
    http_reader=csp_read_groups
    http_call GET "$csp_base/v2/groups" "$csp_token" ''
}

csp_read_groups() {
    json_find name user && csp_is_reference "$json_value" || return 1
    csp_group_user=$json_value
    json_find name act_admin && csp_is_reference "$json_value" || return 1
    csp_group_admin=$json_value
}

# Group ids are sent as they were received: `identity/groups/<id>` or `<id>`.
csp_is_reference() {
    case $1 in
        '' | *[!A-Za-z0-9._/-]*) return 1 ;;
    esac
}

# Creates the user $1 with the e-mail address $2, unless it exists. Sets csp_user_id.
csp_user() {
    http_accepted='200 201 409'
    http_reader=csp_read_created
    csp_user_id=
    http_call POST "$csp_base/v2/users" "$csp_token" \
        "{\"name\":\"$1\",\"email\":\"$2\",\"type\":\"interactive\",\"group_ids\":[\"$csp_group_user\",\"$csp_group_admin\"]}" ||
        return 1
    # The first attempt may have created it, and its answer was lost.
    [ -n "$csp_user_id" ] || csp_find_user "$2" csp_read_found
}

csp_read_created() {
    [ "$http_status" != 409 ] || return 0
    json_get result.id && lab_is_id "${json_value##*/}" || return 1
    csp_user_id=${json_value##*/}
}

# Finds the user with the e-mail address $1; the reader $2 decides whether it must exist. Sets csp_user_id.
csp_find_user() {
    csp_email=$1
    csp_user_id=
    http_accepted=200
    http_reader=$2
    http_call GET "$csp_base/v2/users?_filter=email%3D%3D%22$(printf '%s\n' "$1" | sed 's/+/%2B/g')%22" "$csp_token" ''
}

csp_read_found() {
    csp_read_found_or_none && [ -n "$csp_user_id" ]
}

csp_read_found_or_none() {
    json_find email "$csp_email" || return 1
    json_value=${json_value##*/}
    [ -z "$json_value" ] || lab_is_id "$json_value" || return 1
    csp_user_id=$json_value
}

# Only the status of such an answer counts, unless it is a page of a proxy in front of the provider.
csp_read_nothing() {
    case $http_body in
        [[:space:]]*'<'* | '<'*) return 1 ;;
    esac
}

# Sets the password of the user $1 to $2.
csp_set_password() {
    http_accepted='200 201 204'
    http_reader=csp_read_nothing
    http_call POST "$csp_base/v2/users/$1/password" "$csp_token" "{\"new_password\":\"$(lab_escaped "$2")\"}"
}

# Deletes the user $1. One that does not exist counts as deleted.
csp_delete_user() {
    http_accepted='200 204 404'
    http_reader=csp_read_nothing
    http_call DELETE "$csp_base/v2/users/$1" "$csp_token" ''
}

# Sets sandbox_id to the account from allocate's files; empty if there is none.
csp_account() {
    csp_file=external_id.txt
    # instruqt_broker_allocation.py writes the broker's id to sandbox_id.txt; the earlier scripts knew no other file.
    [ -s "$LAB_FILES_DIR/$csp_file" ] || csp_file=sandbox_id.txt
    lab_read "$csp_file"
    sandbox_id=${lab_text##*/}
    [ -z "$sandbox_id" ] || lab_is_id "$sandbox_id" || fail "$csp_file holds no id of an account"
}

# Whether the files of a user belong to the account $1.
csp_user_is_of() {
    lab_read user_sandbox_id.txt
    [ "$lab_text" = "$1" ]
}
