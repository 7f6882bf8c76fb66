#!/usr/bin/env python3
"""Puts a real `broker up` under the load of a class, and judges it by the answers that the students got.

    BROKER=… NATS_SERVER=… tests/load/run.py [--strict] [scenario]…

Every scenario has its own fleet on loopback, with ports chosen by the kernel, and a fixed number of students. A broken promise
fails the run; so does a missed target of latency with --strict, which is meant for a release build on an idle machine.
"""

import http.client
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from answers import GRANTED, P95_MAX_SECONDS, P99_MAX_SECONDS, Answer, AnswerLog
from rig import POLL_SECONDS, REQUEST_MAX_SECONDS, Broken, Connection, LoadedFleet, wait

ATTEMPTS_MAX = 10
RETRY_AFTER_MAX_SECONDS = 5
DELETED_MAX_SECONDS = 120
SHOWN_MAX = 20


class Student:
    """Claims over a connection, follows the advice of the answers, and releases."""

    def __init__(self, connection, log, owner, lab="lab-1", prefix=""):
        self._connection, self._log, self._owner, self._prefix = connection, log, owner, prefix
        self._headers = {"X-Instruqt-Sandbox-ID": owner, "X-Instruqt-Track-ID": lab}
        if prefix:
            self._headers["X-Sandbox-Name-Prefix"] = prefix

    def claim(self):
        """The lease; none if the pool is exhausted. A repeat is the same call again."""
        for _ in range(ATTEMPTS_MAX):
            began = time.monotonic()
            status, body, headers = self._connection.call("POST", "/v1/allocate", "lab", self._headers)
            answer = Answer(self._owner, self._prefix, status, body, headers["Retry-After"], time.monotonic() - began)
            self._log.add(answer)
            if status in GRANTED:
                return body
            if status not in (503, 504):
                return None
            time.sleep(min(answer.fault.get("retry_after") or 1, RETRY_AFTER_MAX_SECONDS))
        raise Broken(f"{self._owner} was refused {ATTEMPTS_MAX} times: {answer.body}")

    def release(self, lease):
        """Gives the sandbox back."""
        path = f"/v1/sandboxes/{lease['sandbox_id']}/mark-for-deletion"
        status, body, _ = self._connection.call("POST", path, "lab", self._headers)
        if status != 200:
            raise Broken(f"{self._owner}: mark-for-deletion answered {status}: {body}")


def crowd(callers, task):
    """Runs the task for every caller at once, and returns the results; the first failure is raised."""
    barrier = threading.Barrier(callers)

    def start(number):
        barrier.wait(REQUEST_MAX_SECONDS)
        return task(number)

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(start, range(callers)))


def smoke(fleet, log):
    """10 callers, 20 students each; every tenth claim is repeated."""
    turns(fleet, log, callers=10, students=20, think_max_seconds=0.2, ramp_seconds=0)
    return {"granted": 200, "released": 0}


def stress(fleet, log):
    """100 callers, 20 students each, while every second sandbox is released and the pool is synced."""
    with ThreadPoolExecutor(1) as pool:
        done = threading.Event()
        syncing = pool.submit(keep_syncing, fleet, done)
        try:
            turns(fleet, log, callers=100, students=20, think_max_seconds=0.5, ramp_seconds=3, release_every=2)
        finally:
            done.set()
        if not syncing.result():
            raise Broken("no sync was completed during the claims")
    return {"granted": 2000, "released": 1000}


def turns(fleet, log, callers, students, think_max_seconds, ramp_seconds, release_every=0):
    """Every caller claims for one student after the other, and thinks in between."""
    def caller(number):
        think, connection = random.Random(number), Connection(fleet)
        time.sleep(ramp_seconds * number / callers)
        for turn in range(students):
            student = Student(connection, log, f"student-{number}-{turn}")
            lease = student.claim()
            if turn % 10 == 0:
                student.claim()
            if release_every and lease and turn % release_every == 0:
                student.release(lease)
            time.sleep(think.uniform(0, think_max_seconds))

    crowd(callers, caller)


def keep_syncing(fleet, done):
    """Syncs until the event is set; returns how many were completed."""
    completed = 0
    while not done.wait(POLL_SECONDS):
        completed += is_synced(fleet)
    return completed


def is_synced(fleet):
    """Starts a sync; returns whether it was completed."""
    status, body, _ = Connection(fleet).call("POST", "/v1/admin/sync", "admin")
    return status == 200 and body["status"] == "completed"


def labs(fleet, log):
    """50 students in 5 labs, each with a name prefix; all claim at once, repeat the claim twice, and release."""
    students = [Student(Connection(fleet), log, f"student-{number}", f"lab-{number % 5}", f"lab-00{number % 5}")
                for number in range(50)]
    leases = crowd(len(students), lambda number: [students[number].claim() for _ in range(3)][0])
    for number in range(5):
        status, body, _ = Connection(fleet).call("GET", f"/v1/admin/sandboxes?lab=lab-{number}&limit=100", "admin")
        states = Counter(sandbox["status"] for sandbox in body["sandboxes"])
        if status != 200 or states != {"allocated": 10}:
            raise Broken(f"lab-{number} has {dict(states)} instead of 10 allocated")
    crowd(len(students), lambda number: students[number].release(leases[number]))
    return {"granted": 50, "released": 50}


def exhaustion(fleet, log):
    """200 students at once on 40 sandboxes: 40 get one, and 160 hear that there is none. All repeat."""
    students = [Student(Connection(fleet), log, f"student-{number}") for number in range(200)]
    for _ in range(2):
        crowd(len(students), lambda number: students[number].claim())
    if (refused := log.count(409, "POOL_EXHAUSTED")) != 320:
        raise Broken(f"160 students heard twice that the pool is exhausted: {refused} answers instead of 320")
    return {"granted": 40, "released": 0}


# Each with the size of its pool. A lab's prefix fits a hundred sandboxes of 500.
SCENARIOS = {smoke: 250, stress: 2500, labs: 500, exhaustion: 40}


def check_counts(fleet, log, granted, released):
    """The counts of the fleet are those of the answers, and stay so after a sync."""
    if len(log.leases()) != granted:
        raise Broken(f"{len(log.leases())} students got a sandbox instead of {granted}")
    wanted = {"allocated": granted - released, "pending_deletion": 0, "deletion_failed": 0,
              "available": fleet.pool - granted}
    seen = {}

    def settled():
        seen.update(fleet.stats())
        return all(seen[state] == count for state, count in wanted.items())

    try:
        wait("the deletions", settled, DELETED_MAX_SECONDS)
    except Broken as late:
        raise Broken(f"{late}: expected {wanted}, got {seen}") from None
    wait("a sync", lambda: is_synced(fleet), REQUEST_MAX_SECONDS)
    if not settled():
        raise Broken(f"after a sync: expected {wanted}, got {seen}")


def run(scenario, is_strict):
    """Runs a scenario; returns its problems."""
    began, log, fleet, problems = time.monotonic(), AnswerLog(), LoadedFleet(SCENARIOS[scenario]), []
    try:
        fleet.wait_ready()
        check_counts(fleet, log, **scenario(fleet, log))
    except (Broken, OSError, KeyError, ValueError, http.client.HTTPException) as failure:
        problems.append(f"{type(failure).__name__}: {failure}")
        print(fleet.printed()[-4000:], flush=True)
    finally:
        code = fleet.stop()
    problems += log.violations()
    if code:
        problems.append(f"the fleet ended with {code}")
    report(scenario.__name__, log, time.monotonic() - began, problems, is_strict)
    return problems


def report(name, log, seconds, problems, is_strict):
    """Prints a line for the scenario, and its problems."""
    granted, delayed = log.count(201) + log.count(200), log.count(503, "NO_WORKERS")
    line = f"load: {name}: {len(log.leases())} sandboxes, {granted} grants and repeats, {delayed} asked to wait"
    if granted > 1:
        p50, p95, p99 = log.latencies()
        is_met = p95 <= P95_MAX_SECONDS and p99 <= P99_MAX_SECONDS
        line += f"; p50 {p50 * 1e3:.0f}, p95 {p95 * 1e3:.0f}, p99 {p99 * 1e3:.0f} ms, target {'met' if is_met else 'missed'}"
        if is_strict and not is_met:
            problems.append(f"p95 above {P95_MAX_SECONDS} s or p99 above {P99_MAX_SECONDS} s")
    print(f"{line}; {seconds:.0f} s", flush=True)
    for problem in problems[:SHOWN_MAX]:
        print(f"load: {name}: FAILED: {problem}", flush=True)


def main():
    """Runs the named scenarios, or all; returns 0 if there is no problem."""
    words = sys.argv[1:]
    known = {scenario.__name__: scenario for scenario in SCENARIOS}
    names = [word for word in words if word != "--strict"] or list(known)
    if unknown := set(names) - set(known):
        print(f"load: no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    failed = [name for name in names if run(known[name], "--strict" in words)]
    print(f"load: {len(names) - len(failed)} scenarios passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
