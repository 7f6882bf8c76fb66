#!/usr/bin/env bash
# Runs the tests of limits and pauses on a kernel whose control groups are those of version 2: Debian's User-mode Linux, which is a
# process of this machine and needs no rights there. (The files that it sees are those of the machine, read-only.)
#
# Ends with code 3 if that cannot be installed (root on Debian) or does not run here (processors with AMX).
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Tests take 30 s there on a busy machine; a kernel that hangs ends after this time.
timeout_seconds=300
# What depends on control groups. A name selects each test that contains it.
names=(limits:: paused_ containers_are_created a_kernel_freezes)

if grep -qw amx_tile /proc/cpuinfo; then
    say "left out: User-mode Linux does not run on processors with AMX"
    exit "$left_out"
fi
if ! command -v linux.uml >/dev/null; then
    install_packages "not root on Debian, and there is no linux.uml" user-mode-linux
fi

cd "$root"
mapfile -t programs < <(for tests in "host --lib" "namespaces --test engine"; do
    # shellcheck disable=SC2086
    cargo test --quiet --features machine --no-run --message-format json --package $tests
done | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
((${#programs[@]} == 2)) || die "expected two test programs, not ${#programs[*]}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/init" <<END
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t cgroup2 none /sys/fs/cgroup
export PATH=$PATH TMPDIR=/run
for program in ${programs[*]}; do
    "\$program" --color never --test-threads 1 ${names[*]} 2>&1
done
echo o >/proc/sysrq-trigger
# Until that was done: the kernel panics if this ends.
while :; do read -r line || :; done
END
chmod +x "$work/init"
timeout "$timeout_seconds" linux.uml mem=1024M rootfstype=hostfs rootflags=/ ro "init=$work/init" \
    con=null con0=fd:0,fd:1 quiet </dev/null 2>&1 | tee "$work/log" || true

ok=$(grep -cE '^test result: ok\. [1-9][0-9]* passed; 0 failed' "$work/log") || true
((ok == ${#programs[@]})) || die "the tests failed on control groups version 2"
