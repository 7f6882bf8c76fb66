#!/usr/bin/env python3
"""Starts compose.yaml on a real Docker engine as deploy/README.md says, claims, releases, restarts and removes it.

    BROKER=… NATS_SERVER=… unshare --net tests/compose/run.py FOLDER

FOLDER is what `tools/docker.sh compose` printed. The engine is started here and ended by its process id; the new network namespace
keeps its bridges, rules and ports away from those of the machine. The broker's image is built from deploy/Dockerfile with the binary
given, because the stage that compiles takes longer than everything else in CI.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from engine import BROKER, ROOT, ComposeEngine
from fleet import Broken, wait

UP_MAX_SECONDS = 150
CALL_MAX_SECONDS = 30
POOL_MAX_SECONDS = 60
# The default rate is a deletion a second.
DELETED_MAX_SECONDS = 60
# Of the simulator in compose.yaml.
POOL = 200
URL = "http://127.0.0.1:8080"


class Project:
    """The project of compose.yaml on an engine, with secrets as in deploy/README.md."""

    def __init__(self, engine):
        self.engine = engine
        example = (ROOT / "deploy/env.example").read_text()
        self.secrets = {name: os.urandom(16).hex() for name in re.findall(r"^(\w+)=$", example, re.MULTILINE)}
        self.env_file = engine.folder / "env"
        self.env_file.write_text(re.sub(r"^(\w+)=$", lambda found: found[0] + self.secrets[found[1]], example,
                                        flags=re.MULTILINE))

    def compose(self, *words, **options):
        """Runs `docker compose`."""
        return self.engine.run("compose", "--env-file", self.env_file, *words, **options).stdout.decode()

    def images(self):
        """The names of the images: of the broker and of NATS."""
        names = sorted(set(self.compose("config", "--images").split()))
        expect("images of compose.yaml", [name.split(":")[0] for name in names], ["nats", "sandbox-broker"])
        return names[1], names[0]

    def up(self):
        """Starts everything and waits until it is healthy."""
        began = time.monotonic()
        self.compose("up", "--wait", "--wait-timeout", UP_MAX_SECONDS)
        print(f"compose: healthy after {time.monotonic() - began:.0f} s", flush=True)

    def containers(self, *options):
        """What the engine knows of each container, by the name of its service."""
        ids = self.compose("ps", "--quiet", *options).split()
        found = json.loads(self.engine.output("inspect", *ids)) if ids else []
        return [(each["Config"]["Labels"]["com.docker.compose.service"], each) for each in found]

    def call(self, method, path, secret, **headers):
        """Status and decoded body of a call of the HTTP API."""
        headers = {"Authorization": f"Bearer {self.secrets[secret]}", **headers}
        return answer(urllib.request.Request(URL + path, method=method, headers=headers))

    def stats(self):
        """The counts of the pool."""
        status, body = self.call("GET", "/v1/admin/stats", "BROKER_ADMIN_TOKEN")
        if status != 200:
            raise Broken(f"stats answered {status}: {body}")
        return body

    def accounts(self):
        """The names of the sandboxes at the provider: those of the simulator's list."""
        [address] = [network["IPAddress"] for service, each in self.containers() if service == "simulator"
                     for network in each["NetworkSettings"]["Networks"].values()]
        status, body = answer(urllib.request.Request(
            f"http://{address}:8090/v2/current_user/accounts",
            headers={"Authorization": f"Token {self.secrets['CSP_API_TOKEN']}"}))
        if status != 200:
            raise Broken(f"the simulator answered {status}: {body}")
        return {each["name"] for each in body["results"] if (each["account_type"], each["state"]) == ("sandbox", "active")}


def answer(request):
    """Status and decoded body of a call."""
    try:
        with urllib.request.urlopen(request, timeout=CALL_MAX_SECONDS) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode(errors="replace")


def expect(what, actual, wanted):
    """Ends the run if a value is not the expected one."""
    if actual != wanted:
        raise Broken(f"{what}: expected {wanted}, got {actual}")
    expect.count += 1
    print(f"compose: {what}: ok", flush=True)


expect.count = 0


def refuse_without_secrets(project):
    """Without .env, Compose names a variable and starts nothing."""
    run = project.engine.run("compose", "--env-file", "/dev/null", "up", "--wait", is_checked=False)
    expect("a start without secrets fails", run.returncode != 0, True)
    expect("it names the variable and the remedy",
           bool(re.search(r"(BROKER|CSP)_\w*TOKEN.*deploy/README\.md", run.stderr.decode())), True)
    expect("containers without secrets", project.containers("--all"), [])


def claim_and_release(project):
    """A sandbox goes from the pool to a student, and is deleted at the provider after the release."""
    wait("a full pool", lambda: project.stats()["available"] == POOL, POOL_MAX_SECONDS)
    headers = {"X-Instruqt-Sandbox-ID": "student-1", "X-Instruqt-Track-ID": "lab-1"}
    status, lease = project.call("POST", "/v1/allocate", "BROKER_API_TOKEN", **headers)
    expect("a claim", status, 201)
    expect("its repeat", project.call("POST", "/v1/allocate", "BROKER_API_TOKEN", **headers), (200, lease))
    expect("its account exists", lease["name"] in project.accounts(), True)
    path = f"/v1/sandboxes/{lease['sandbox_id']}/mark-for-deletion"
    status, _ = project.call("POST", path, "BROKER_API_TOKEN", **headers)
    expect("a release", status, 200)
    wait("the deletion at the provider", lambda: lease["name"] not in project.accounts(), DELETED_MAX_SECONDS)
    expect("accounts that are left", len(project.accounts()), POOL - 1)

    def state():
        return project.call("GET", f"/v1/admin/sandboxes/{lease['sandbox_id']}", "BROKER_ADMIN_TOKEN")[1]["status"]

    wait("the tombstone", lambda: state() == "deleted", DELETED_MAX_SECONDS)


def survive_down(project):
    """`down` stops every role in order and keeps streams, table and accounts; `down --volumes` removes everything."""
    headers = {"X-Instruqt-Sandbox-ID": "student-2"}
    status, lease = project.call("POST", "/v1/allocate", "BROKER_API_TOKEN", **headers)
    expect("a claim before the end", status, 201)
    project.compose("stop")
    codes = {(service, each["State"]["ExitCode"]) for service, each in project.containers("--all")}
    expect("exit codes other than 0", {each for each in codes if each[1]}, set())
    project.compose("down")
    project.up()
    expect("its repeat after `down` and `up`", project.call("POST", "/v1/allocate", "BROKER_API_TOKEN", **headers),
           (200, lease))
    expect("accounts after `down` and `up`", len(project.accounts()), POOL - 1)
    project.compose("down", "--volumes")
    expect("containers at the end", project.engine.output("ps", "--all", "--quiet"), "")
    expect("volumes at the end", project.engine.output("volume", "ls", "--quiet"), "")


def walk(engine):
    """Everything, in order."""
    engine.start()
    engine.wait_ready()
    project = Project(engine)
    broker, nats = project.images()
    engine.make_images(broker, nats)
    version = subprocess.run([BROKER, "--version"], check=True, capture_output=True, text=True, timeout=CALL_MAX_SECONDS)
    expect("the image runs", engine.output("run", "--rm", "--network", "none", broker, "--version"), version.stdout.strip())
    refuse_without_secrets(project)
    try:
        project.up()
        claim_and_release(project)
        restarts = {service: each["RestartCount"] for service, each in project.containers() if each["RestartCount"]}
        expect("containers that were restarted", restarts, {})
        survive_down(project)
    except Exception:
        print(project.compose("ps", "--all", is_checked=False), flush=True)
        print(project.compose("logs", "--no-color", "--tail", "30", is_checked=False), flush=True)
        project.compose("down", "--volumes", "--timeout", "1", is_checked=False)
        raise


def main():
    """Runs everything; returns 0 if all is as expected."""
    [tools] = sys.argv[1:]
    engine = ComposeEngine(Path(tools))
    try:
        walk(engine)
        expect("exit code of dockerd", engine.stop(), 0)
    except (Broken, OSError, KeyError, ValueError, subprocess.SubprocessError) as failure:
        print(engine.printed(), flush=True)
        print(f"compose: FAILED: {type(failure).__name__}: {failure}", flush=True)
        return 1
    finally:
        engine.stop()
    print(f"compose: {expect.count} checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
