# Ends with 1 if the last line of the input holds one of the lines before it: as it is, or escaped for JSON or for a
# URL. Only what can be printed is compared. Wants LC_ALL=C: it works on bytes.

{ lines[NR] = $0 }

END {
    said[1] = lines[NR]
    said[2] = unescaped(said[1])
    said[3] = unescaped(said[2])
    for (form = 1; form <= 3; form++) {
        said[form + 3] = decoded(said[form])
        said[form + 6] = said[form]
        gsub(/[+]/, " ", said[form + 6])
        said[form + 6] = decoded(said[form + 6])
    }
    for (number = 1; number < NR; number++) {
        secret = printable(lines[number])
        if (secret == "") continue
        for (form = 1; form <= 9; form++) if (index(printable(said[form]), secret)) exit 1
    }
}

function printable(text) {
    gsub(/[^ -~]/, "", text)
    return text
}

# Without the backslashes of JSON.
function unescaped(text,    out, at, c) {
    out = ""
    while ((at = index(text, "\\")) > 0) {
        c = substr(text, at + 1, 1)
        out = out substr(text, 1, at - 1)
        if (c == "u") {
            out = out character(hex(substr(text, at + 2, 4)))
            text = substr(text, at + 6)
        } else {
            out = out (c ~ /[bfnrt]/ ? "" : c)
            text = substr(text, at + 2)
        }
    }
    return out text
}

# Without the percent signs of a URL.
function decoded(text,    out, at) {
    out = ""
    while ((at = index(text, "%")) > 0) {
        if (substr(text, at + 1, 2) ~ /^[0-9A-Fa-f][0-9A-Fa-f]$/) {
            out = out substr(text, 1, at - 1) character(hex(substr(text, at + 1, 2)))
            text = substr(text, at + 3)
        } else {
            out = out substr(text, 1, at)
            text = substr(text, at + 1)
        }
    }
    return out text
}

function hex(digits,    number, code) {
    for (number = 1; number <= length(digits); number++)
        code = code * 16 + index("0123456789abcdef", tolower(substr(digits, number, 1))) - 1
    return code
}

function character(code) {
    return code >= 32 && code < 127 ? sprintf("%c", code) : ""
}
