# Makes a password from random bytes, which come as decimal numbers: 3 upper-case letters, 5 lower-case ones, 4 digits
# and 4 special characters, shuffled. Ends with 1 if there were not enough bytes.

{ for (i = 1; i <= NF; i++) bytes[count++] = $i }

END {
    pick("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 3)
    pick("abcdefghijklmnopqrstuvwxyz", 5)
    pick("0123456789", 4)
    pick("!@#$%&", 4)
    for (i = size - 1; i > 0; i--) {
        j = below(i + 1)
        swapped = chosen[i]
        chosen[i] = chosen[j]
        chosen[j] = swapped
    }
    if (missing) exit 1
    for (i = 0; i < size; i++) printf "%s", chosen[i]
}

function pick(from, times) {
    while (times-- > 0) chosen[size++] = substr(from, below(length(from)) + 1, 1)
}

# A number below `limit`. Bytes that would make small numbers likelier than others are passed over.
function below(limit,    byte) {
    do {
        if (used >= count) { missing = 1; return 0 }
        byte = bytes[used++]
    } while (byte >= 256 - 256 % limit)
    return byte % limit
}
