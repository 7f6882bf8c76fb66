#!/usr/bin/env bash
# Removes .broker, the state that `make up` keeps between runs; refuses while a broker runs on it.
#
# A running broker holds a lock on .broker/lock, which its end releases however it ends. The removal happens under
# that same lock, so a broker cannot start in the middle of it.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

state=$root/.broker
lock=$state/lock

# Runs a command under the lock; ends with code 75 if another process holds it.
locked() {
    if command -v flock >/dev/null; then
        flock --nonblock --conflict-exit-code 75 "$lock" "$@"
    else
        python3 - "$lock" "$@" <<'PYTHON'
import fcntl, subprocess, sys

with open(sys.argv[1], "a") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(75)
    sys.exit(subprocess.call(sys.argv[2:]))
PYTHON
    fi
}

if [[ ! -e $state ]]; then
    say "nothing to remove, there is no .broker"
    exit
fi
# Without a lock file no broker has ever started here.
[[ -e $lock ]] || : >"$lock"
code=0
locked rm -rf "$state" || code=$?
case $code in
    0) say "removed .broker" ;;
    75) die "refused: a broker runs on .broker; stop it first" ;;
    *) die "could not remove .broker (code $code)" ;;
esac
