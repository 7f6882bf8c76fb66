#!/usr/bin/env python3
"""Runs every test of this folder, some at a time, and says how many there were.

`python3 -m unittest discover -t .. -s .` does the same one by one. Arguments are parts of names: only tests that
have one of them in their name run.
"""

import sys
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LAB = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(LAB))
# Most of the time is spent in waits and in starting processes.
AT_ONCE = 6


def flat(suite):
    """The tests of a suite without its groups."""
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from flat(entry)
        else:
            yield entry


def run(test):
    """Runs one test by itself; returns what was wrong with it, if anything."""
    result = unittest.TestResult()
    test.run(result)
    wrong = result.failures + result.errors
    if result.skipped or result.testsRun != 1:
        wrong = [*wrong, (test, "it did not run")]
    return test, wrong


def main(wanted):
    """Ends with 0 if there were tests and all of them passed."""
    from tests import rig

    began = time.monotonic()
    suite = unittest.defaultTestLoader.discover(str(LAB / "tests"), top_level_dir=str(LAB))
    tests = [test for test in flat(suite) if not wanted or any(part in test.id() for part in wanted)]
    rig.fleet()
    passed = failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for test, wrong in pool.map(run, tests):
            failed += bool(wrong)
            passed += not wrong
            for _, trace in wrong:
                print(f"FAILED {test.id()}\n{trace}", flush=True)
    # The balance: what left the pool was granted to an owner, and no owner holds any of it any more.
    stats, granted = rig.fleet().stats(), len(rig.fleet().granted())
    balanced = (stats["allocated"], rig.POOL - stats["available"]) == (0, granted)
    passed, failed = passed + balanced, failed + (not balanced)
    if not balanced:
        print(f"FAILED the books: {granted} sandboxes granted, but {stats}")
    names = ", ".join(implementation.name for implementation in rig.IMPLEMENTATIONS)
    print(f"lab scripts by {names}: {passed} tests passed, {failed} failed, {time.monotonic() - began:.0f} s")
    return 0 if tests and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
