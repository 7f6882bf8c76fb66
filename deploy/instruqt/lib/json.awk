# Reads one JSON text and prints one value of it. Ends with 1 if the text is not JSON, or if the value is a list, an
# object or a truth value. A value that is null or not there prints nothing. Wants LC_ALL=C: it works on bytes.
#
#   awk -v get=detail.code -f json.awk              the value below these names
#   WANTED=x awk -v list=results -v key=name -f …   the `id` of the first object in a list whose `name` is x, in any case

{ text = text $0 "\n" }

END {
    if (bad) exit 1
    size = length(text)
    at = 1
    value_at("")
    blanks()
    if (at <= size) broken()
    if (list != "") get = list "." found_in_list() ".id"
    path = "." get
    if (path in kind && kind[path] !~ /^(string|number|null)$/) exit 1
    printf "%s", value[path]
}

function broken() {
    bad = 1
    exit 1
}

function found_in_list(    number) {
    for (number = 0; ("." list "." number) in kind; number++)
        if (tolower(value["." list "." number "." key]) == tolower(ENVIRON["WANTED"])) return number
    return "none"
}

function blanks() {
    while (at <= size && index(" \t\r\n", substr(text, at, 1))) at++
}

function expect(word) {
    if (substr(text, at, length(word)) != word) broken()
    at += length(word)
}

function value_at(path,    first) {
    if (++depth > 64) broken()
    blanks()
    first = substr(text, at, 1)
    value[path] = ""
    if (first == "{") object_at(path)
    else if (first == "[") list_at(path)
    else if (first == "\"") { kind[path] = "string"; value[path] = string_at() }
    else if (first == "n") { kind[path] = "null"; expect("null") }
    else if (first == "t") { kind[path] = "truth"; expect("true") }
    else if (first == "f") { kind[path] = "truth"; expect("false") }
    else number_at(path)
    depth--
}

function number_at(path,    start) {
    start = at
    while (at <= size && index("+-.0123456789Ee", substr(text, at, 1))) at++
    value[path] = substr(text, start, at - start)
    if (value[path] !~ /^-?(0|[1-9][0-9]*)([.][0-9]+)?([Ee][-+]?[0-9]+)?$/) broken()
    kind[path] = "number"
}

# Names lose their full stops, so that none can pose as a path.
function object_at(path,    name) {
    kind[path] = "object"
    at++
    blanks()
    if (substr(text, at, 1) == "}") { at++; return }
    while (1) {
        blanks()
        if (substr(text, at, 1) != "\"") broken()
        name = string_at()
        gsub(/[.]/, "\034", name)
        blanks()
        expect(":")
        value_at(path "." name)
        blanks()
        if (substr(text, at, 1) == "}") { at++; return }
        expect(",")
    }
}

function list_at(path,    number) {
    kind[path] = "list"
    at++
    blanks()
    if (substr(text, at, 1) == "]") { at++; return }
    for (number = 0; ; number++) {
        value_at(path "." number)
        blanks()
        if (substr(text, at, 1) == "]") { at++; return }
        expect(",")
    }
}

function string_at(    out, c) {
    out = ""
    for (at++; at <= size; at++) {
        c = substr(text, at, 1)
        if (c == "\"") { at++; return out }
        if (c < " ") broken()
        out = out (c == "\\" ? escape_at() : c)
    }
    broken()
}

# Stands on the backslash; leaves `at` on the last character of the escape.
function escape_at(    c, code, low) {
    c = substr(text, ++at, 1)
    if (c != "" && index("\"\\/", c)) return c
    if (c == "n") return "\n"
    if (c == "t") return "\t"
    if (c == "r") return "\r"
    if (c == "b") return "\b"
    if (c == "f") return "\f"
    if (c != "u") broken()
    code = hex_at(at + 1)
    at += 4
    if (code >= 55296 && code < 56320 && substr(text, at + 1, 2) == "\\u") {
        low = hex_at(at + 3)
        if (low >= 56320 && low < 57344) {
            at += 6
            return utf8(65536 + (code - 55296) * 1024 + low - 56320)
        }
    }
    # Neither a zero byte nor half of a pair can stand in a file of text.
    return utf8(code == 0 || (code >= 55296 && code < 57344) ? 65533 : code)
}

function hex_at(start,    number, digit, code) {
    code = 0
    for (number = 0; number < 4; number++) {
        digit = index("0123456789abcdef", tolower(substr(text, start + number, 1)))
        if (digit == 0 || start + number > size) broken()
        code = code * 16 + digit - 1
    }
    return code
}

function utf8(code) {
    if (code < 128) return sprintf("%c", code)
    if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
    if (code < 65536)
        return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
    return sprintf("%c%c%c%c", 240 + int(code / 262144), 128 + int(code / 4096) % 64, \
        128 + int(code / 64) % 64, 128 + code % 64)
}
