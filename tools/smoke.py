#!/usr/bin/env python3
"""Walks the path of a first visitor: `make up`, a claim by the printed curl line, a release, and the end.

Relies on this much of what `broker up` prints: the URL of the HTTP API, which says that the fleet is ready, and a
curl command (it may run over several lines that end in a backslash) that claims a sandbox and names its owner in the
header X-Instruqt-Sandbox-ID. The tokens are in api-token and admin-token below the data folder.
Ends with 0 only if every step went as promised; a failed step prints what the broker said.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POOL = 20
READY_MAX_SECONDS = 90
CLAIM_MAX_SECONDS = 30
DELETE_MAX_SECONDS = 60
STOP_MAX_SECONDS = 5
POLL_SECONDS = 0.2


class Broken(Exception):
    """A promise that was not kept."""


class Fleet:
    """A running `make up`, with everything that it printed so far."""

    def __init__(self, data):
        # A known port distinguishes the API's URL from the others in the printed table.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.data = data
        args = [
            f"--data {data} --http {self.url.removeprefix('http://')} --nats-listen 127.0.0.1:0",
            f"--simulator-listen 127.0.0.1:0 --pool {POOL}",
        ]
        self.make = subprocess.Popen(
            ["make", "--no-print-directory", "up", "ARGS=" + " ".join(args)],
            cwd=ROOT,
            # Counts are of the moment that the walk asks at, and not of the last census.
            env=os.environ | {"STATS_CENSUS_AGE_SECONDS_MAX": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.lines = []
        self.family = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.make.stdout:
            self.lines.append(re.sub(r"\x1b\[[0-9;]*m", "", line.rstrip("\n")))

    def left(self):
        """The processes of the family that still run. The command is compared too, for ids are used again."""
        alive = processes()
        return {pid: command for pid, command in self.family.items() if alive.get(pid, (0, None))[1] == command}

    def wait_ready(self):
        """Waits until the API's URL was printed and the curl line with it."""

        def ready():
            if self.make.poll() is not None:
                raise Broken(f"`make up` ended with {self.make.returncode} before it was ready")
            return any(self.url in line for line in self.lines) and self.curl_line()

        return wait("the ready table with a curl line", READY_MAX_SECONDS, ready)

    def curl_line(self):
        """The printed command that claims a sandbox, if it is complete."""
        lines = list(self.lines)
        for number, line in enumerate(lines):
            if not re.search(r"\bcurl\s", line):
                continue
            parts = [line[re.search(r"\bcurl\s", line).start():]]
            while parts[-1].rstrip().endswith("\\") and number + len(parts) < len(lines):
                parts.append(lines[number + len(parts)])
            command = "\n".join(parts)
            if "/v1/allocate" in command and not command.rstrip().endswith("\\"):
                return command
        return None

    def token(self, name):
        """One of the tokens that the broker made for itself."""
        return (self.data / name).read_text().strip()

    def call(self, method, path, token, headers=()):
        """One HTTP call; returns status and decoded body."""
        request = urllib.request.Request(self.url + path, method=method, headers=dict(headers))
        request.add_header("Authorization", f"Bearer {self.token(token)}")
        try:
            with urllib.request.urlopen(request, timeout=CLAIM_MAX_SECONDS) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode(errors="replace")

    def stats(self):
        """The counts of the pool."""
        status, body = self.call("GET", "/v1/admin/stats", "admin-token")
        if status != 200:
            raise Broken(f"stats answered {status}: {body}")
        return body


def wait(what, seconds, ready):
    """Asks until there is a true answer, and returns it; names what was waited for if the time is over."""
    end = time.monotonic() + seconds
    while True:
        answer = ready()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Broken(f"waited {seconds} s for {what}")
        time.sleep(POLL_SECONDS)


def expect(what, actual, wanted):
    """Ends the walk if a value is not the promised one."""
    if actual != wanted:
        raise Broken(f"{what}: expected {wanted}, got {actual}")
    print(f"smoke: {what}: {actual}", flush=True)


def processes():
    """Every process: id, then parent and command."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = (line.split(None, 3) for line in listing.stdout.splitlines())
    return {int(row[0]): (int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")}


def descendants(ancestor):
    """The processes below another one, with their commands."""
    everyone = processes()
    found, frontier = {}, {ancestor}
    while frontier:
        frontier = {pid for pid, (parent, _) in everyone.items() if parent in frontier}
        found.update({pid: everyone[pid][1] for pid in frontier})
    return found


def claim(command, folder):
    """Runs the printed command; returns status and decoded body."""
    body = folder / "claim.json"
    run = subprocess.run(
        ["bash", "-c", f"{command} --silent --show-error --output '{body}' --write-out '\\n%{{http_code}}'"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=CLAIM_MAX_SECONDS,
        check=False,
    )
    if run.returncode != 0:
        raise Broken(f"the printed command ended with {run.returncode}: {command}\n{run.stderr}")
    return int(run.stdout.strip().splitlines()[-1]), json.loads(body.read_text())


def walk(fleet, folder):
    """The whole path while the fleet runs."""
    began = time.monotonic()
    command = fleet.wait_ready()
    print(f"smoke: ready after {time.monotonic() - began:.1f} s", flush=True)
    owner = re.search(r"X-Instruqt-Sandbox-ID:\s*([^\s'\"]+)", command, re.IGNORECASE)
    if not owner:
        raise Broken(f"the printed command names no owner: {command}")
    owner = {"X-Instruqt-Sandbox-ID": owner.group(1)}

    wait("a full pool", READY_MAX_SECONDS, lambda: fleet.stats()["available"] == POOL)
    status, first = claim(command, folder)
    expect("first claim", status, 201)
    status, again = claim(command, folder)
    expect("the same claim again", status, 200)
    expect("its sandbox", again["sandbox_id"], first["sandbox_id"])
    expect("allocated now", fleet.stats()["allocated"], 1)

    status, body = fleet.call("POST", f"/v1/sandboxes/{first['sandbox_id']}/mark-for-deletion", "api-token", owner)
    if status != 200:
        raise Broken(f"mark-for-deletion answered {status}: {body}")
    expect("mark-for-deletion", status, 200)
    seen = {}

    def deleted():
        seen.update(fleet.stats())
        return (seen["allocated"], seen["pending_deletion"], seen["available"]) == (0, 0, POOL - 1)

    try:
        wait("the deletion", DELETE_MAX_SECONDS, deleted)
    except Broken as late:
        raise Broken(f"{late}; the last counts: {seen}") from None
    expect("given up deletions", seen["deletion_failed"], 0)
    expect("available at the end", seen["available"], POOL - 1)


def stop(fleet):
    """Asks the broker to stop, and looks whether it left anything behind."""
    fleet.family = descendants(fleet.make.pid)
    children = [pid for pid, (parent, _) in processes().items() if parent == fleet.make.pid]
    if len(children) != 1:
        raise Broken(f"expected the broker as the one child of make, found: {fleet.family}")
    began = time.monotonic()
    os.kill(children[0], signal.SIGTERM)
    try:
        code = fleet.make.wait(STOP_MAX_SECONDS)
    except subprocess.TimeoutExpired:
        raise Broken(f"still running {STOP_MAX_SECONDS} s after SIGTERM") from None
    expect("exit code", code, 0)
    print(f"smoke: stopped after {time.monotonic() - began:.1f} s", flush=True)
    expect("processes left behind", fleet.left(), {})


def clean_up(fleet, folder):
    """Ends what a broken walk left running, each process by its own id."""
    if fleet.make.poll() is None:
        fleet.family.update(descendants(fleet.make.pid))
    for pid in fleet.left():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    fleet.make.wait()
    shutil.rmtree(folder, ignore_errors=True)


def main():
    """Runs the walk; the exit code says whether it held."""
    # The build is not part of what is timed.
    subprocess.run(["make", "--no-print-directory", "build"], cwd=ROOT, check=True)
    folder = Path(tempfile.mkdtemp(prefix="broker-smoke-"))
    fleet = Fleet(folder / "data")
    try:
        walk(fleet, folder)
        stop(fleet)
    except (Broken, OSError, KeyError, ValueError, subprocess.SubprocessError) as failure:
        print("\n".join(["smoke: what `make up` printed:", *fleet.lines[-100:]]), flush=True)
        print(f"smoke: FAILED: {type(failure).__name__}: {failure}", flush=True)
        return 1
    finally:
        clean_up(fleet, folder)
    print("smoke: ok", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
