"""A `broker up` that takes load, and connections to its HTTP API."""

import http.client
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "harness"))
from fleet import POLL_SECONDS, Broken, Fleet, wait  # noqa: E402, F401

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
REQUEST_MAX_SECONDS = 30


class LoadedFleet(Fleet):
    """A fleet with a pool of a given size."""

    def __init__(self, pool):
        super().__init__(Path(tempfile.mkdtemp(prefix="broker-load-")), pool, SETTINGS)
        self.pool = pool

    def wait_ready(self):
        """Waits for a full pool."""
        super().wait_ready()
        wait("a full pool", lambda: self.stats()["available"] == self.pool)

    def stats(self):
        """The counts of the pool."""
        status, body, _ = Connection(self).call("GET", "/v1/admin/stats", "admin")
        if status != 200:
            raise Broken(f"stats answered {status}: {body}")
        return body

    def stop(self):
        """Ends it, and returns its exit code."""
        code = super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code


class Connection:
    """One connection to the API, kept open."""

    def __init__(self, fleet):
        self._http = http.client.HTTPConnection(fleet.url.removeprefix("http://"), timeout=REQUEST_MAX_SECONDS)

    def call(self, method, path, scope, headers=()):
        """Status, decoded body and headers of an answer."""
        self._http.request(method, path, headers={"Authorization": f"Bearer {TOKENS[scope]}", **dict(headers)})
        response = self._http.getresponse()
        return response.status, json.loads(response.read()), response.headers
