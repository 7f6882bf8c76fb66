"""What the tests stand on: one real broker for all of them, and the commands in every shell and Python there is."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.proxy import PASS, Proxy

LAB = Path(__file__).resolve().parent.parent
ROOT = LAB.parent.parent
BROKER = Path(os.environ.get("BROKER") or ROOT / "target/debug/broker")

POOL = 1000
READY_MAX_SECONDS = 90
STOP_MAX_SECONDS = 10
RUN_MAX_SECONDS = 90
EVENTUALLY_MAX_SECONDS = 60
POLL_SECONDS = 0.1

ALLOCATED_FILES = (
    "subtenant_id.txt",
    "external_id.txt",
    "sandbox_id.txt",
    "sandbox_name.txt",
    "sfdc_account_id.txt",
    "sandbox_env.sh",
)


@dataclass(frozen=True)
class Implementation:
    """One way to run the commands."""

    name: str
    words: tuple
    is_python: bool
    is_full: bool = True
    """Whether every test runs; else only those that between them run every line of the package."""

    def command(self, command):
        """The words that run a command."""
        return [*self.words, command] if self.is_python else [*self.words, str(LAB / command)]


def _implementations():
    found = [Implementation("sh", ("sh",), False), Implementation("bash", ("bash",), False)]
    if shutil.which("dash") and os.path.realpath(shutil.which("sh")) != os.path.realpath(shutil.which("dash")):
        found.append(Implementation("dash", ("dash",), False))
    if shutil.which("busybox"):
        found.append(Implementation("busybox", ("busybox", "sh"), False))
    found.append(Implementation("python", (sys.executable, "-m", "sandbox_lab"), True))
    oldest = next(_pythons_3_9(), None)
    if oldest and sys.version_info[:2] != (3, 9):
        found.append(Implementation("python39", (oldest, "-m", "sandbox_lab"), True, False))
    return found


def _pythons_3_9():
    places = [shutil.which("python3.9"), *map(str, Path.home().glob(".pyenv/versions/3.9*/bin/python3.9"))]
    for place in filter(None, places):
        check = [place, "-c", "import ssl, sys; sys.exit(sys.version_info[:2] != (3, 9))"]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            yield place


IMPLEMENTATIONS = _implementations()


class Fleet:
    """A running `broker up`, ended by its own id."""

    def __init__(self):
        self._folder = tempfile.mkdtemp(prefix="lab-scripts-")
        log = Path(self._folder) / "log"
        words = [str(BROKER), "up", "--nodes", "0", "--data", f"{self._folder}/data", "--pool", str(POOL)]
        for flag in ("http", "nats-listen", "simulator-listen"):
            words += [f"--{flag}", "127.0.0.1:0"]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                words,
                # Counts are of the moment that a test asks at, and not of the last census.
                env={**os.environ, "STATS_CENSUS_AGE_SECONDS_MAX": "0"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        atexit.register(self._stop)
        self._granted = {}
        self._lock = threading.Lock()

        def ready():
            printed = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
            if self._process.poll() is not None:
                raise RuntimeError(f"broker up ended before it was ready:\n{printed}")
            return re.search(r"^ +http +(http://\S+)", printed, re.MULTILINE)

        self.url = wait("the fleet", ready, READY_MAX_SECONDS).group(1)
        self.token = Path(self._folder, "data/api-token").read_text().strip()
        self._admin = Path(self._folder, "data/admin-token").read_text().strip()
        wait("a full pool", lambda: self.stats()["available"] == POOL, READY_MAX_SECONDS)
        self._good_line = self.line()
        self.url_of_good_line = self._good_line.url

    def _stop(self):
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_MAX_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def line(self, faults=(), forever=PASS):
        """A proxy to the broker that fails as asked. What the broker truly grants on it is noted."""
        return Proxy(self.url, faults, forever, self._note)

    def _note(self, seen, status, body):
        if seen.path == "/v1/allocate" and status in (200, 201):
            with self._lock:
                owner = seen.headers["x-instruqt-sandbox-id"].encode("latin-1").decode()
                self._granted.setdefault(owner, set()).add(json.loads(body)["sandbox_id"])

    def stats(self):
        """The counts of the pool."""
        request = urllib.request.Request(
            f"{self.url}/v1/admin/stats", headers={"Authorization": f"Bearer {self._admin}"}
        )
        with urllib.request.urlopen(request, timeout=READY_MAX_SECONDS) as response:
            return json.load(response)

    def held(self, owner):
        """The ids that this owner holds now, of all that it was ever granted."""
        with self._lock:
            granted = sorted(self._granted.get(owner, ()))
        return [sandbox_id for sandbox_id in granted if self._holds(owner, sandbox_id)]

    def granted(self):
        """Every sandbox that was granted to any owner."""
        with self._lock:
            return set().union(*self._granted.values())

    def _holds(self, owner, sandbox_id):
        headers = {"Authorization": f"Bearer {self.token}", "X-Instruqt-Sandbox-ID": owner.encode().decode("latin-1")}
        request = urllib.request.Request(f"{self.url}/v1/sandboxes/{sandbox_id}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=READY_MAX_SECONDS) as response:
                return json.load(response)["status"] == "allocated"
        except urllib.error.HTTPError as refusal:
            with refusal:
                if refusal.code not in (403, 404, 410):
                    raise
            return False


_fleet = None
_fleet_lock = threading.Lock()


def fleet():
    """The one broker of this run."""
    global _fleet
    with _fleet_lock:
        _fleet = _fleet or Fleet()
        return _fleet


def wait(what, ready, seconds=EVENTUALLY_MAX_SECONDS):
    """Asks until there is a true answer, and returns it."""
    end = time.monotonic() + seconds
    while True:
        found = ready()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Run:
    """How a command ended, and what it printed."""

    code: int
    output: str


class Lab:
    """The host of one participant: a folder and an environment."""

    _count = 0
    _count_lock = threading.Lock()

    def __init__(self, implementation, case):
        with Lab._count_lock:
            Lab._count += 1
            self.owner = f"p{Lab._count}-{implementation.name}"
        self.implementation = implementation
        self.case = case
        self.folder = Path(tempfile.mkdtemp(prefix="lab-"))
        case.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        case.addCleanup(self._leave)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(LAB / "python"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BROKER_API_TOKEN": fleet().token,
            "BROKER_API_URL": fleet().url_of_good_line,
            "INSTRUQT_PARTICIPANT_ID": self.owner,
            "INSTRUQT_TRACK_SLUG": "a-lab",
            "INFOBLOX_EMAIL": "admin@example.org",
            "INFOBLOX_PASSWORD": 'pass"word\\with $(signs) `x`',
            "LAB_WAIT_SECONDS": "60",
            "LAB_TIMEOUT_SECONDS": "20",
            "LAB_CONNECT_SECONDS": "10",
            "LAB_BACKOFF_MS": "40",
            "LAB_BACKOFF_MAX_MS": "200",
            "LAB_RETRY_AFTER_MAX_SECONDS": "1",
        }

    def _leave(self):
        """Whatever the test was about: the balance is checked when all tests are over."""
        if fleet().held(self.owner):
            self.must("cleanup")

    def start(self, command, **env):
        """Starts a command; its output goes to pipes."""
        merged = {**self.env, **{name: value for name, value in env.items() if value is not None}}
        for name, value in env.items():
            if value is None:
                merged.pop(name, None)
        return subprocess.Popen(
            self.implementation.command(command),
            cwd=self.folder,
            env=merged,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, command, **env):
        """Runs a command to its end."""
        return finish(self.start(command, **env))

    def must(self, command, code=0, **env):
        """Runs a command that has to end with a code."""
        run = self.run(command, **env)
        self.case.assertEqual(run.code, code, f"{command} printed:\n{run.output}")
        return run

    def text(self, name):
        """A file of the lab; none if it is not there."""
        path = self.folder / name
        return path.read_bytes().decode() if path.exists() else None

    def names(self):
        """All files of the lab, leftovers too."""
        return sorted(entry.name for entry in self.folder.iterdir())

    def sourced(self, name, *variables):
        """What sh and bash make of a file: the values of variables, which must be the same in both."""
        seen = []
        for shell in ("sh", "bash"):
            script = f'. ./{name} && for v in {" ".join(variables)}; do eval "printf \'%s\\\\0\' \\"\\$$v\\""; done'
            run = subprocess.run([shell, "-c", script], cwd=self.folder, capture_output=True, check=True, timeout=30)
            seen.append(run.stdout.decode().split("\0")[:-1])
        self.case.assertEqual(*seen)
        return seen[0]

    def holds_one(self):
        """Checks that this participant holds one sandbox, and that the files speak of it; returns its id."""
        held = wait("the sandbox", lambda: fleet().held(self.owner))
        self.case.assertEqual(held, [self.text("subtenant_id.txt")])
        return held[0]

    def holds_none(self):
        """Checks that this participant holds no sandbox."""
        wait(f"{self.owner} to hold nothing", lambda: not fleet().held(self.owner))

    def is_complete(self):
        """Checks that all files of allocate are there, agree, and nothing else is left."""
        extra = [name for name in self.names() if name not in ALLOCATED_FILES]
        self.case.assertEqual(extra, [])
        values = self.sourced("sandbox_env.sh", "BROKER_SANDBOX_ID", "CSP_ACCOUNT_ID", "STUDENT_TENANT", "SFDC_ACCOUNT_ID")
        names = ("subtenant_id.txt", "external_id.txt", "sandbox_name.txt", "sfdc_account_id.txt")
        self.case.assertEqual(values, [self.text(name) for name in names])
        self.case.assertEqual(self.text("sandbox_id.txt"), self.text("external_id.txt"))
        self.case.assertRegex(self.text("external_id.txt"), r"\A[0-9a-f-]{36}\Z")


def finish(process):
    """Waits for the end of a command."""
    try:
        output, _ = process.communicate(timeout=RUN_MAX_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"a command did not end:\n{output.decode(errors='replace')}") from None
    return Run(process.returncode, output.decode(errors="replace"))


def for_each_implementation(cases, chosen=IMPLEMENTATIONS):
    """Makes a test of every method named `check_*` for every implementation, and of its rows where it has some."""
    for name, check in list(vars(cases).items()):
        if name.startswith("check_"):
            for implementation in chosen:
                for row in getattr(check, "rows", [None]):
                    _add_test(cases, name, check, implementation, row)
    return cases


def for_each_full_implementation(cases):
    """The same without an implementation that differs from another in its version alone."""
    return for_each_implementation(cases, [each for each in IMPLEMENTATIONS if each.is_full])


def with_rows(rows):
    """Says which rows of the table a check is for."""

    def mark(check):
        check.rows = rows
        return check

    return mark


def _add_test(cases, name, check, implementation, row):
    def test(self):
        lab = Lab(implementation, self)
        check(self, lab) if row is None else check(self, lab, row)

    words = [name.replace("check_", "test_")] + ([re.sub(r"\W+", "_", row.name)] if row else [])
    test.__name__ = "__".join([*words, implementation.name])
    if hasattr(cases, test.__name__):
        raise RuntimeError(f"two rows are called {test.__name__}")
    setattr(cases, test.__name__, test)
