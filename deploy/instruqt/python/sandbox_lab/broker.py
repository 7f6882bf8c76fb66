"""The broker's two calls, and the two commands that make them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from sandbox_lab.calls import Answer, Call
from sandbox_lab.files import Files, exports
from sandbox_lab.retry import Refused, Session
from sandbox_lab.settings import Failed, header_safe, is_id, required, server_url

PENDING = "allocation_pending.txt"
"""A file that exists while a claim may be open that no other file records."""
NO_PREFIX = "no-sandbox-has-this-name"
"""No sandbox is named like this, so a claim for it is answered with what its owner has already, or with nothing."""


@dataclass(frozen=True)
class Sandbox:
    """What a claim was answered with."""

    id: str
    external_id: str
    name: str
    sfdc_account_id: str


class Broker:
    """The broker, as one participant sees it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._token = required("BROKER_API_TOKEN")
        self.owner = required("INSTRUQT_PARTICIPANT_ID")
        url = required("BROKER_API_URL")
        if not re.match(r"https?://.", url):
            raise Failed("BROKER_API_URL must begin with http:// or https://")
        server_url("BROKER_API_URL", url)
        self._base = re.sub(r"/v1$", "", url[:-1] if url.endswith("/") else url) + "/v1"
        self._lab = header_safe("INSTRUQT_TRACK_SLUG", os.environ.get("INSTRUQT_TRACK_SLUG", "")) or "unknown-lab"

    def claim(self, prefix: str, waits_for_pool: bool) -> Sandbox:
        """Claims a sandbox under the one key of this participant: however often this is asked, and by however many
        at once, there is one sandbox.
        """
        headers = {
            "X-Instruqt-Sandbox-ID": self.owner,
            "Idempotency-Key": self.owner,
            "X-Instruqt-Track-ID": self._lab,
        }
        if prefix:
            headers["X-Sandbox-Name-Prefix"] = prefix
        call = Call("POST", f"{self._base}/allocate", self._token, headers)
        return self._session.call(call, (200, 201), _read_claim, waits_for_pool)

    def release(self, sandbox_id: str) -> None:
        """Gives a sandbox back. One that is gone, or going, is as good."""
        url = f"{self._base}/sandboxes/{sandbox_id}/mark-for-deletion"
        call = Call("POST", url, self._token, {"X-Instruqt-Sandbox-ID": self.owner})
        self._session.call(call, (200, 404, 410), _read_release)


def _read_claim(answer: Answer) -> Sandbox:
    sandbox = Sandbox(
        id=answer.get("sandbox_id"),
        external_id=answer.get("external_id").rsplit("/", 1)[-1],
        name=answer.get("name"),
        sfdc_account_id=answer.get("sfdc_account_id"),
    )
    if not is_id(sandbox.id) or not is_id(sandbox.external_id):
        raise ValueError("no ids")
    return sandbox


def _read_release(answer: Answer) -> None:
    # The broker itself has to say it: a page of something in front of it says nothing about the sandbox.
    if not answer.get("sandbox_id" if answer.status == 200 else "detail.code"):
        raise ValueError("not from the broker")


def allocate(session: Session, files: Files) -> int:
    """Claims a sandbox and writes what the lab has to know about it. Again is the same claim."""
    broker = Broker(session)
    # Set and empty means any name.
    prefix = header_safe("SANDBOX_NAME_PREFIX", os.environ.get("SANDBOX_NAME_PREFIX", "lab"))

    # From here on a claim may be open, even if this process does not live to learn of it: cleanup has to ask.
    files.put(PENDING, broker.owner)
    try:
        sandbox = broker.claim(prefix, waits_for_pool=True)
    except Refused:
        raise Failed("there is no sandbox for this participant") from None

    # sandbox_env.sh comes last and is never of another sandbox: where it is, everything is.
    if files.read("subtenant_id.txt") != sandbox.id:
        files.remove("sandbox_env.sh")
    # The user of another sandbox is none of this one, and may be called the same.
    if files.read("user_sandbox_id.txt") != sandbox.external_id:
        files.forget_user()
    files.put("subtenant_id.txt", sandbox.id)
    files.put("external_id.txt", sandbox.external_id)
    files.put("sandbox_id.txt", sandbox.external_id)
    files.put("sandbox_name.txt", sandbox.name)
    files.put("sfdc_account_id.txt", sandbox.sfdc_account_id)
    values = {
        "STUDENT_TENANT": sandbox.name,
        "CSP_ACCOUNT_ID": sandbox.external_id,
        "BROKER_SANDBOX_ID": sandbox.id,
        "SFDC_ACCOUNT_ID": sandbox.sfdc_account_id,
    }
    files.put("sandbox_env.sh", exports("allocate", values))
    files.remove(PENDING)
    session.say(f"sandbox {sandbox.id} is ready")
    return 0


def cleanup(session: Session, files: Files) -> int:
    """Gives this participant's sandbox back. Again, or without anything to give back, is fine."""
    broker = Broker(session)
    recorded = files.read("subtenant_id.txt")
    if recorded and not is_id(recorded):
        raise Failed("subtenant_id.txt holds no id of a sandbox")
    ids = [recorded] if recorded else []
    code = 0
    # allocate was stopped before it could write, or its files are lost: only the broker knows what there is.
    if not recorded or files.has(PENDING):
        try:
            held = broker.claim(NO_PREFIX, waits_for_pool=False)
            ids += [held.id] if held.id != recorded else []
        except Refused as refused:
            if (refused.status, refused.code) == (409, "POOL_EXHAUSTED"):
                session.say("the broker knows of no open claim")
            else:
                session.say("cannot find out whether there is a sandbox")
                code = 1
    for sandbox_id in ids:
        try:
            broker.release(sandbox_id)
            session.say(f"sandbox {sandbox_id} is given back")
        except Refused:
            session.say(f"sandbox {sandbox_id} is NOT given back")
            code = 1
    if code == 0:
        files.remove(PENDING)
        # The sandbox takes its user along.
        files.forget_user()
    return code
