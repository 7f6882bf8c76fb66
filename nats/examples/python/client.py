"""A client of the sandbox broker on NATS: claims a sandbox, reads it, extends its lease and releases it.

Its settings come from the environment; see README.md in the folder above.
"""

import asyncio
import json
import os
import random
import sys
import time

import nats
from nats.errors import NoRespondersError, TimeoutError

ATTEMPT_SECONDS = 2
OVERALL_SECONDS = 90
REPEATED = {"POOL_EXHAUSTED", "CONTENDED", "NO_WORKERS", "NOT_HERE", "STORE_UNAVAILABLE", "UPSTREAM_UNAVAILABLE", "TIMEOUT"}


class Fault(Exception):
    """A failure in the broker's answer."""

    def __init__(self, status, detail):
        super().__init__(f"{detail['code']}: {detail['message']} (request {detail['request_id']})")
        self.status = status
        self.code = detail["code"]
        self.retry_after = detail.get("retry_after", 0)

    def may_repeat(self, attempt):
        """Whether a repeat may succeed: temporary failures, and once an internal error. The status decides for unknown codes."""
        if self.code == "INTERNAL_ERROR":
            return attempt == 1
        return self.code in REPEATED or self.status == 429 or self.status > 500


class Broker:
    """Requests with repeats. All attempts have the same body, key and request id."""

    def __init__(self, connection, ends):
        self._connection = connection
        self._ends = ends

    async def ask(self, verb, request_id, key=None, **body):
        """Repeats a request until the answer is no temporary failure; returns the outcome and the body's bytes."""
        attempt = 0
        while True:
            attempt += 1
            pause = random.uniform(0.1, 0.5)
            try:
                reply = await self._attempt(verb, request_id, key, json.dumps(body).encode())
                return (reply.headers or {}).get("Sandbox-Outcome"), reply.data
            except Fault as fault:
                if not fault.may_repeat(attempt):
                    raise
                pause += fault.retry_after
                problem = fault
            except (NoRespondersError, TimeoutError) as error:
                # No worker is subscribed, or the request or its reply was lost: it may have been carried out.
                problem = error
            if time.time() + pause > self._ends:
                raise problem
            print(f"{verb}: attempt {attempt}: {problem!r}; again in {pause:.1f} s", file=sys.stderr)
            await asyncio.sleep(pause)

    async def _attempt(self, verb, request_id, key, body):
        headers = {"X-Request-ID": request_id, "Sandbox-Deadline-Ms": str(int((time.time() + ATTEMPT_SECONDS) * 1000))}
        if key:
            headers["Idempotency-Key"] = key
        reply = await self._connection.request(f"sandbox.v1.{verb}", body, timeout=ATTEMPT_SECONDS, headers=headers)
        status = (reply.headers or {}).get("Nats-Service-Error-Code")
        if status:
            raise Fault(int(status), json.loads(reply.data)["detail"])
        return reply


async def connect():
    """The connection, as NATS_USER if the server has users."""
    url, user = os.environ.get("NATS_URL") or "nats://127.0.0.1:4222", os.environ.get("NATS_USER")
    if not user:
        return await nats.connect(url)
    password = os.environ.get("NATS_PASSWORD", "")
    return await nats.connect(url, user=user, password=password, inbox_prefix=f"_INBOX.{user}".encode())


async def main():
    owner = os.environ.get("OWNER") or f"example-python-{time.time_ns()}"
    connection = await connect()
    broker = Broker(connection, time.time() + OVERALL_SECONDS)
    outcome, first = await broker.ask("allocate", f"{owner}-claim", key="first", owner=owner, lab="nats-examples")
    lease = json.loads(first)
    mine = {"owner": owner, "sandbox_id": lease["sandbox_id"]}
    print("claimed", lease["sandbox_id"], outcome)

    # A repeat of the claim returns the same lease and no second sandbox.
    outcome, again = await broker.ask("allocate", f"{owner}-again", key="first", owner=owner, lab="nats-examples")
    assert (outcome, again) == ("existing", first), again

    _, view = await broker.ask("get", f"{owner}-get", **mine)
    assert json.loads(view)["status"] == "allocated", view

    _, extended = await broker.ask(
        "extend", f"{owner}-extend", lab_duration_hours=5, lease_epoch=lease["lease_epoch"], **mine
    )
    assert json.loads(extended)["expires_at"] > lease["expires_at"], extended

    # Another owner is refused, and a repeat would not help: ask raises at once.
    try:
        await broker.ask("get", f"{owner}-stranger", owner="another-owner", sandbox_id=lease["sandbox_id"])
        raise AssertionError("a stranger was not refused")
    except Fault as fault:
        assert fault.code == "NOT_SANDBOX_OWNER", fault

    _, released = await broker.ask("release", f"{owner}-release", **mine)
    _, twice = await broker.ask("release", f"{owner}-release-again", **mine)
    assert twice == released, twice
    print("released", lease["sandbox_id"])
    await connection.close()


asyncio.run(main())
