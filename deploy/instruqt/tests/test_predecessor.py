"""The calls of the predecessor's lab scripts, which have to work unchanged, with only the broker's URL set.

Their paths, headers, the fields that they read and their reaction to a status are facts; the code is not theirs.
"""

import http.client
import json
import time
import unittest
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.rig import RUN_MAX_SECONDS, fleet, for_each_implementation, with_rows
from tests.test_original import SINGLES

OF_THEIR_LIBRARY = {"User-Agent": "python-requests/2.31.0", "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
EXPIRY_MIN_SECONDS = 3600


@dataclass(frozen=True)
class Pair:
    """A script that claims and one that releases."""

    name: str
    id_file: str
    """Where the first leaves the broker's id for the second."""
    prefix: str
    """What it asks for unless SANDBOX_NAME_PREFIX is set."""
    needs_sfdc: bool
    """Whether it writes the SFDC id to a file."""


PAIRS = (
    Pair("instruqt_broker_allocation and cleanup", "sandbox_id.txt", "", False),
    Pair("allocation and deallocation_broker_subtenant", "subtenant_id.txt", "lab", True),
)


class Host:
    """The host of a lab with such a pair."""

    def __init__(self, lab, pair, url, **env):
        self.lab = lab
        self.pair = pair
        # They put a path behind the URL, so it contains /v1.
        self.env = {**lab.env, **env, "BROKER_API_URL": f"{url}/v1"}

    def _post(self, path, **headers):
        url = urlsplit(self.env["BROKER_API_URL"] + path)
        headers = {
            **OF_THEIR_LIBRARY,
            "Authorization": f"Bearer {self.env['BROKER_API_TOKEN']}",
            "Content-Type": "application/json",
            "X-Instruqt-Sandbox-ID": self.env["INSTRUQT_PARTICIPANT_ID"],
            **headers,
        }
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=RUN_MAX_SECONDS)
        try:
            connection.request("POST", url.path, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def allocate(self):
        """Claims and writes the files; returns the status."""
        headers = {"X-Instruqt-Track-ID": self.env["INSTRUQT_TRACK_SLUG"]}
        prefix = self.env.get("SANDBOX_NAME_PREFIX", self.pair.prefix)
        if prefix:
            headers["X-Sandbox-Name-Prefix"] = prefix
        status, answer = self._post("/allocate", **headers)
        if status in (200, 201):
            files = {self.pair.id_file: answer["sandbox_id"], "sandbox_name.txt": answer["name"]}
            files["external_id.txt"] = answer["external_id"].split("/")[-1]
            if self.pair.needs_sfdc:
                files["sfdc_account_id.txt"] = answer["sfdc_account_id"]
            for name, value in files.items():
                (self.lab.folder / name).write_text(value)
            # It is printed as a date.
            self.lab.case.assertGreater(answer["expires_at"], time.time() + EXPIRY_MIN_SECONDS)
        return status

    def release(self):
        """Releases the sandbox of the files; returns the status."""
        status, answer = self._post(f"/sandboxes/{self.lab.text(self.pair.id_file)}/mark-for-deletion")
        if status == 200:
            self.lab.case.assertEqual(answer["status"], "pending_deletion")
        elif status == 403:
            self.lab.case.assertEqual(answer["detail"]["code"], "NOT_SANDBOX_OWNER")
            self.lab.case.assertTrue(answer["detail"]["message"])
        return status


class Predecessor(unittest.TestCase):
    """A lab of theirs, and the refusals that end one."""

    @with_rows(PAIRS)
    def check_cycle(self, lab, pair):
        with fleet().line() as line:
            host = Host(lab, pair, line.url)
            self.assertEqual(host.allocate(), 201)
            sandbox = lab.text(pair.id_file)
            self.assertEqual(fleet().held(lab.owner), [sandbox])
            self.assertRegex(lab.text("external_id.txt"), r"\A[0-9a-f-]{36}\Z")
            self.assertTrue(lab.text("sandbox_name.txt").startswith(pair.prefix))
            self.assertEqual(host.allocate(), 200)
            self.assertEqual(lab.text(pair.id_file), sandbox)
            # The second clean-up of a lab fails with the predecessor.
            self.assertEqual([host.release(), host.release()], [200, 200])
        lab.holds_none()

    @with_rows(PAIRS)
    def check_refusals(self, lab, pair):
        self.assertEqual(Host(lab, pair, fleet().url, BROKER_API_TOKEN="not-the-token").allocate(), 401)
        nothing_free = {"SANDBOX_NAME_PREFIX": "nothing-"}
        self.assertEqual(Host(lab, pair, fleet().url, **nothing_free).allocate(), 409)
        (lab.folder / pair.id_file).write_text("999")
        self.assertEqual(Host(lab, pair, fleet().url).release(), 404)
        lab.must("allocate")
        sandbox = lab.holds_one()
        (lab.folder / pair.id_file).write_text(sandbox)
        self.assertEqual(Host(lab, pair, fleet().url, INSTRUQT_PARTICIPANT_ID="another").release(), 403)
        self.assertEqual(Host(lab, pair, fleet().url, BROKER_API_TOKEN="not-the-token").release(), 401)
        lab.holds_one()
        # Either script releases what the other has claimed.
        self.assertEqual(Host(lab, pair, fleet().url).release(), 200)
        lab.must("cleanup")
        lab.holds_none()

    @with_rows(PAIRS)
    def check_their_claim_and_our_cleanup(self, lab, pair):
        with fleet().line() as line:
            self.assertEqual(Host(lab, pair, line.url).allocate(), 201)
        lab.must("cleanup")
        lab.holds_none()


for_each_implementation(Predecessor, SINGLES[:1])
