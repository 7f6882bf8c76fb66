#!/usr/bin/env python3
"""Runs `cargo test` with its own arguments in all test binaries, even if one fails, and sums up at the end.

The last lines name every failed test, and count over all binaries and doc tests. Ends with cargo's code, or with 1 if
no test ran.
"""

import re
import socket
import subprocess
import sys
from contextlib import ExitStack

# What the broker listens on unless it is configured otherwise: `broker up` (HTTP, NATS, simulator), `broker store`, and
# the operations port of a role.
DEFAULT_PORTS = (8080, 4222, 8090, 8000, 9100)

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# `Running tests/flows/main.rs (target/debug/deps/flows-0123456789abcdef)`, `Doc-tests domain`
BINARY = re.compile(r"^ +(?:Running .*?([^/\\]+)-[0-9a-f]{16}(?:\.exe)?\)|Doc-tests (\S+))$")
RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;")


class Summary:
    """What the lines of cargo and of the test binaries say."""

    def __init__(self):
        self.passed = self.failed = self.ignored = self.binaries = 0
        self.names = []
        self._binary = None
        self._listed = []

    def read(self, line):
        """Takes the next line."""
        if found := BINARY.match(line):
            self.end()
            self._binary = found[1] or f"doc tests of {found[2]}"
        elif line == "failures:":
            # The first such list contains outputs; the last one, before the result, contains names only.
            self._listed = []
        elif found := RESULT.match(line):
            passed, failed, ignored = map(int, found.groups())
            self.passed, self.failed, self.ignored = self.passed + passed, self.failed + failed, self.ignored + ignored
            self.binaries += 1
            if failed:
                self.names += [f"{self._binary}: {name}" for name in self._listed]
            self._binary = None
        elif line.startswith("    "):
            self._listed.append(line.strip())

    def end(self):
        """Notes a binary that has ended without a result, such as by a signal."""
        if self._binary:
            self.names.append(f"{self._binary}: ended before its tests did")
            self._binary = None

    def text(self):
        """The closing lines."""
        counts = f"{self.passed} passed, {self.failed} failed, {self.ignored} ignored in {self.binaries} test binaries"
        return "\n".join(f"tests: {line}" for line in [*(f"FAILED {name}" for name in self.names), counts])


def hold_default_ports(held):
    """Takes the default ports that are free, so that a test which uses one fails here as it would beside `make up`."""
    for port in DEFAULT_PORTS:
        taken = held.enter_context(socket.socket())
        try:
            taken.bind(("127.0.0.1", port))
        except OSError:
            pass


def main(arguments):
    """Runs the tests; returns the exit code."""
    summary = Summary()
    colour = ["--color", "always"] if sys.stdout.isatty() else []
    with ExitStack() as held:
        hold_default_ports(held)
        words = ["cargo", "test", "--no-fail-fast", *colour, *arguments]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as cargo:
            for raw in cargo.stdout:
                sys.stdout.buffer.write(raw)
                sys.stdout.buffer.flush()
                summary.read(COLOUR.sub("", raw.decode(errors="replace")).rstrip())
    summary.end()
    print(f"\n{summary.text()}", flush=True)
    ran = summary.passed + summary.failed
    return cargo.returncode or (0 if ran and not summary.names else 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
