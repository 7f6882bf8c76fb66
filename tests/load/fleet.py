"""A real `broker up` on loopback, and connections to its HTTP API."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BROKER = Path(os.environ.get("BROKER") or ROOT / "target/debug/broker")
TOKENS = {"lab": "lab-token-of-the-load-test", "admin": "admin-token-of-the-load-test"}
# No rate limits for callers, counts of the present moment, and deletions as fast as the simulator allows.
SETTINGS = {
    "BROKER_API_TOKEN": TOKENS["lab"],
    "BROKER_ADMIN_TOKEN": TOKENS["admin"],
    "PEER_RATE_PER_SECOND": "0",
    "TOKEN_RATE_PER_SECOND": "0",
    "OWNER_RATE_PER_SECOND": "0",
    "STATS_CENSUS_AGE_SECONDS_MAX": "0",
    "DELETIONS_PER_MINUTE": "60000",
    "SIMULATOR_DELETE_LATENCY_MS": "5",
    "LOG_FILTER": "error",
}
READY_MAX_SECONDS = 90
REQUEST_MAX_SECONDS = 30
STOP_MAX_SECONDS = 10
POLL_SECONDS = 0.1


class Broken(Exception):
    """A failed expectation."""


class Fleet:
    """A running `broker up`, ended by its process id."""

    def __init__(self, pool):
        self.pool = pool
        self.folder = Path(tempfile.mkdtemp(prefix="broker-load-"))
        words = [BROKER, "up", "--ephemeral", "--pool", str(pool)]
        for flag in ("http", "nats-listen", "simulator-listen"):
            words += [f"--{flag}", "127.0.0.1:0"]
        with (self.folder / "log").open("wb") as out:
            self.process = subprocess.Popen(
                words, env={**os.environ, **SETTINGS}, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def printed(self):
        """Everything that it printed so far."""
        return re.sub(r"\x1b\[[0-9;]*m", "", (self.folder / "log").read_text(errors="replace"))

    def wait_ready(self):
        """Waits for a full pool."""
        def address():
            if self.process.poll() is not None:
                raise Broken("broker up ended before it was ready")
            return re.search(r"^ +http +http://(\S+)", self.printed(), re.MULTILINE)

        self.address = wait("the fleet", address, READY_MAX_SECONDS).group(1)
        wait("a full pool", lambda: self.stats()["available"] == self.pool, READY_MAX_SECONDS)

    def stats(self):
        """The counts of the pool."""
        status, body, _ = Connection(self).call("GET", "/v1/admin/stats", "admin")
        if status != 200:
            raise Broken(f"stats answered {status}: {body}")
        return body

    def stop(self):
        """Ends it, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_MAX_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code


class Connection:
    """One connection to the API, kept open."""

    def __init__(self, fleet):
        self._http = http.client.HTTPConnection(fleet.address, timeout=REQUEST_MAX_SECONDS)

    def call(self, method, path, scope, headers=()):
        """Status, decoded body and headers of an answer."""
        self._http.request(method, path, headers={"Authorization": f"Bearer {TOKENS[scope]}", **dict(headers)})
        response = self._http.getresponse()
        return response.status, json.loads(response.read()), response.headers


def wait(what, ready, seconds):
    """Calls the function until it returns a true value, and returns that."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise Broken(f"waited {seconds} s for {what}")
        time.sleep(POLL_SECONDS)
    return found
