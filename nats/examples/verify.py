#!/usr/bin/env python3
"""What the examples must do.

`verify.py stand-in NAME…` is a fake allocator that gives each example every temporary failure: it answers that it is busy, drops
a request, and answers that the table is unavailable. It checks that all attempts are the same request, and that none comes too early.

`verify.py books NAME…` reads the event log: each example claimed one sandbox, once, with the request id that it sent, extended
its lease, and released it.
"""

import asyncio
import json
import os
import sys
import time

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

STAND_IN_MAX_SECONDS = 60
BOOKS_MAX_SECONDS = 60
# A caller's clock may differ from this one.
EARLY_SECONDS = 0.05
# The answer to each attempt at a claim: a code and the seconds to wait, or none.
ANSWERS = [("NO_WORKERS", 503, 1), None, ("STORE_UNAVAILABLE", 503, 2)]


async def connect(user):
    return await nats.connect(
        os.environ["NATS_URL"], user=user, password=os.environ["PASSWORD"], inbox_prefix=f"_INBOX.{user}".encode()
    )


async def stand_in(names):
    connection = await connect("allocator")
    tries = {f"example-{name}": [] for name in names}
    wrong, done = [], asyncio.Event()
    not_before = {}

    async def on_claim(message):
        owner = json.loads(message.data)["owner"]
        headers = message.headers or {}
        request = (message.data, headers.get("Idempotency-Key"), headers.get("X-Request-ID"))
        if request[1:] != ("first", f"{owner}-claim"):
            wrong.append(f"{owner}: sent {request[1:]}")
        left_ms = int(headers.get("Sandbox-Deadline-Ms", 0)) - time.time() * 1000
        # The shell counts in whole seconds, so its deadline may be up to one second short.
        if not 0 < left_ms <= 3000:
            wrong.append(f"{owner}: a deadline {left_ms:.0f} ms from now")
        if tries[owner] and tries[owner][0] != request:
            wrong.append(f"{owner}: another request at try {len(tries[owner]) + 1}")
        if time.monotonic() < not_before.get(owner, 0) - EARLY_SECONDS:
            wrong.append(f"{owner}: did not wait before try {len(tries[owner]) + 1}")
        answer = ANSWERS[min(len(tries[owner]), len(ANSWERS) - 1)]
        tries[owner].append(request)
        if answer:
            code, status, seconds = answer
            detail = {"code": code, "message": "a stand-in", "request_id": request[2], "retry_after": seconds}
            fault = {"Nats-Service-Error": "a stand-in", "Nats-Service-Error-Code": str(status)}
            await connection.publish(message.reply, json.dumps({"detail": detail}).encode(), headers=fault)
            not_before[owner] = time.monotonic() + seconds
        if all(len(made) >= len(ANSWERS) for made in tries.values()):
            done.set()

    subscription = await connection.subscribe("sandbox.v1.*", queue="sandbox-allocator", cb=on_claim)
    await connection.flush()
    try:
        await asyncio.wait_for(done.wait(), STAND_IN_MAX_SECONDS)
    except asyncio.TimeoutError:
        wrong.append(f"tries: { {owner: len(made) for owner, made in tries.items()} }")
    await subscription.unsubscribe()
    await connection.close()
    return wrong


async def books(names):
    connection = await connect("auditor")
    stream = connection.jetstream()
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    reader = await stream.pull_subscribe("sandbox.events.>", durable="books", stream="EVENTS", config=config)
    owners = {f"example-{name}" for name in names}
    events, ends = {}, time.monotonic() + BOOKS_MAX_SECONDS
    while {event["data"]["owner"] for event in events.values() if event["type"] == "sandbox.released"} != owners:
        if time.monotonic() > ends:
            return [f"not everybody has released: {sorted(events)}"]
        try:
            messages = await reader.fetch(50, timeout=1)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            event = json.loads(message.data)
            events[event["id"]] = event
            await message.ack()
    await connection.close()
    wrong = []
    for owner in sorted(owners):
        own = [event for event in events.values() if event["data"]["owner"] == owner]
        mine = [event for event in sorted(own, key=lambda event: event["data"]["version"]) if event["data"]["by"] == owner]
        done = [(event["type"].removeprefix("sandbox."), event["data"].get("request_id")) for event in mine]
        expected = [("claimed", f"{owner}-claim"), ("extended", f"{owner}-extend"), ("released", f"{owner}-release")]
        if done != expected or len({event["subject"] for event in mine}) != 1:
            wrong.append(f"{owner}: the event log says {done}")
    return wrong


def main(what, *names):
    wrong = asyncio.run({"stand-in": stand_in, "books": books}[what](names))
    for line in wrong:
        print(f"FAILED {what}: {line}", file=sys.stderr)
    return 1 if wrong or not names else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
