"""A running `broker up`, for the tests that are written in Python. BROKER names the binary, NATS_SERVER the server."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BROKER = Path(os.environ.get("BROKER") or ROOT / "target/debug/broker")

READY_MAX_SECONDS = 90
STOP_MAX_SECONDS = 10
POLL_SECONDS = 0.1


class Broken(Exception):
    """A failed expectation."""


class Fleet:
    """A `broker up --ephemeral` on ports that the kernel chooses, ended by its process id."""

    def __init__(self, folder, pool, env=(), nodes=0):
        self.folder = folder
        self.log = folder / "log"
        words = [BROKER, "up", "--nodes", str(nodes), "--ephemeral", "--pool", str(pool)]
        for flag in ("http", "nats-listen", "simulator-listen"):
            words += [f"--{flag}", "127.0.0.1:0"]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                words, env={**os.environ, **dict(env)}, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def wait_ready(self):
        """Waits for the message of a fleet that is ready."""
        wait("the fleet", self._is_ready)
        self.url = self.shown("http")

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Broken(f"broker up ended before it was ready:\n{self.printed()}")
        # The last line of the message.
        return "Ctrl-C" in self.printed()

    def printed(self):
        """The output so far, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))

    def shown(self, name):
        """A value of the printed table."""
        found = re.search(rf"^  {name} +(\S+)$", self.printed(), re.MULTILINE)
        if not found:
            raise Broken(f"no {name} in:\n{self.printed()}")
        return found[1]

    def stop(self):
        """Ends it and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_MAX_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def wait(what, ready, seconds=READY_MAX_SECONDS):
    """Calls the function until it returns a true value, and returns that."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise Broken(f"waited {seconds} s for {what}")
        time.sleep(POLL_SECONDS)
    return found
