"""The broker's two calls, and the two commands that make them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from sandbox_lab.calls import Answer, Call
from sandbox_lab.files import Files, exports
from sandbox_lab.retry import Refused, Session
from sandbox_lab.settings import Failed, header_safe, is_id, required, server_url
from sandbox_lab.variables import set_variables

PENDING = "allocation_pending.txt"
"""A file that exists while there may be a claim that no other file records."""
NO_PREFIX = "no-sandbox-has-this-name"
"""No sandbox has such a name, so the answer to a claim for it is the owner's existing sandbox, or none."""


@dataclass(frozen=True)
class Sandbox:
    """The answer to a claim."""

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
        """Claims a sandbox with the participant's key: however often this is called, and by however many processes
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
        """Releases a sandbox. One that is deleted, or being deleted, counts as released."""
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
    # Only an answer of the broker itself counts: a page of a proxy says nothing about the sandbox.
    if not answer.get("sandbox_id" if answer.status == 200 else "detail.code"):
        raise ValueError("not from the broker")


def allocate(session: Session, files: Files, original: bool = False) -> int:
    """Claims a sandbox and writes its data to files. Another run repeats the same claim.

    With `original`, as `instruqt_broker_allocation.py`: `sandbox_id.txt` and SANDBOX_ID are the broker's id, any name
    matches by default, and Instruqt's variables are set.
    """
    broker = Broker(session)
    # If it is set but empty, any name matches.
    prefix = os.environ.get("SANDBOX_NAME_PREFIX", "" if original else "lab")
    header_safe("SANDBOX_NAME_PREFIX", prefix)

    # From here on there may be a claim, even if this process is killed before it learns of it: cleanup must ask.
    files.put(PENDING, broker.owner)
    try:
        sandbox = broker.claim(prefix, waits_for_pool=True)
    except Refused:
        raise Failed("there is no sandbox for this participant") from None

    # sandbox_env.sh is written last and never belongs to another sandbox: if it exists, all files exist.
    if files.read("subtenant_id.txt") != sandbox.id:
        files.remove("sandbox_env.sh")
    # A user of another sandbox does not belong to this one, but may have the same name.
    if files.read("user_sandbox_id.txt") != sandbox.external_id:
        files.forget_user()
    files.put("subtenant_id.txt", sandbox.id)
    files.put("external_id.txt", sandbox.external_id)
    files.put("sandbox_id.txt", sandbox.id if original else sandbox.external_id)
    files.put("sandbox_name.txt", sandbox.name)
    files.put("sfdc_account_id.txt", sandbox.sfdc_account_id)
    values = {
        "STUDENT_TENANT": sandbox.name,
        "CSP_ACCOUNT_ID": sandbox.external_id,
        "BROKER_SANDBOX_ID": sandbox.id,
        "SFDC_ACCOUNT_ID": sandbox.sfdc_account_id,
    }
    if original:
        values["SANDBOX_ID"] = sandbox.id
    files.put("sandbox_env.sh", exports(session.name, values))
    files.remove(PENDING)
    if original:
        set_variables(session, values)
    session.say(f"sandbox {sandbox.id} is ready")
    return 0


def cleanup(session: Session, files: Files, original: bool = False) -> int:
    """Releases this participant's sandbox. Another run, or a run without a sandbox, succeeds.

    With `original`, as `instruqt_broker_cleanup.py`: finds the broker's id in `sandbox_id.txt`, too.
    """
    broker = Broker(session)
    source = "subtenant_id.txt"
    # After `allocate`, it holds the provider's id.
    if original and files.read("sandbox_id.txt") != files.read("external_id.txt"):
        source = "sandbox_id.txt"
    recorded = files.read(source)
    if recorded and not is_id(recorded):
        raise Failed(f"{source} holds no id of a sandbox")
    ids = [recorded] if recorded else []
    code = 0
    # allocate was stopped before it could write, or its files are lost: only the broker knows the sandbox.
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
        # The user is deleted with the sandbox.
        files.forget_user()
    return code
