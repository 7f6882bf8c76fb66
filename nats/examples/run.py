#!/usr/bin/env python3
"""Runs every example of this folder against real fleets, and checks what they did.

`make test-clients` calls it. First, without any settings, beside a `broker up` with its default ports, in a separate network.
Then with the users of nats/accounts.conf: each example meets no worker at all, then a broker that is busy, loses a request
and cannot reach its table (verify.py), and at last the fleet. Needs Linux, Go, Node, npm and Python with pip; everything else
is pinned here.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".tools/examples"
BROKER = Path(os.environ.get("BROKER") or ROOT / "target/debug/broker")
NATS_SERVER = os.environ.get("NATS_SERVER") or str(ROOT / ".tools/nats-server")
USERS = ("INGRESS", "ALLOCATOR", "REGISTRY", "REAPER", "RECONCILER", "SCHEDULER", "RUNNER", "SERVICE", "AUDITOR", "OPERATOR", "SYSTEM")
PASSWORD = "not-a-secret"
LANGUAGES = ("go", "python", "shell", "typescript")
INSTALL_MAX_SECONDS = 300
READY_MAX_SECONDS = 90
RUN_MAX_SECONDS = 150
STOP_MAX_SECONDS = 10
# A network namespace, in which the default ports are free; other users than root need a user namespace for it.
SEPARATE_NETWORK = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else []),
                    "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def call(*words, **options):
    """Runs a command; shows its output if it fails."""
    run = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=INSTALL_MAX_SECONDS, check=False, **options
    )
    if run.returncode != 0:
        raise RuntimeError(f"{words} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return run.stdout.strip()


def install_go():
    call("go", "vet", "./...", cwd=HERE / "go", env={**os.environ, "GOFLAGS": "-mod=readonly"})
    call("go", "build", "-o", CACHE / "client-go", ".", cwd=HERE / "go", env={**os.environ, "GOFLAGS": "-mod=readonly"})
    return [CACHE / "client-go"]


def install_python():
    folder = CACHE / "python"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    wanted = ["--only-binary", ":all:", "--require-hashes", "--requirement", HERE / "python/requirements.txt"]
    call(*pip, *wanted, "--target", folder)
    return [sys.executable, HERE / "python/client.py"]


def install_shell():
    client = Path(call(ROOT / "tools/nats-cli.sh"))
    return ["env", f"PATH={client.parent}:{os.environ['PATH']}", "sh", HERE / "shell/client.sh"]


def install_typescript():
    folder = CACHE / "typescript"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "package-lock.json"
    wanted = (HERE / "typescript/package-lock.json").read_bytes()
    is_there = lock.exists() and lock.read_bytes() == wanted and (folder / "node_modules").is_dir()
    for name in ("package.json", "package-lock.json", "tsconfig.json", "client.ts"):
        shutil.copy(HERE / "typescript" / name, folder / name)
    if not is_there:
        call("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder)
    # The same run checks types and generates the script.
    call("node", folder / "node_modules/typescript/bin/tsc", cwd=folder)
    return ["node", folder / "dist/client.js"]


def install():
    """The command of each example; prepares all of them in parallel."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        making = {name: pool.submit(globals()[f"install_{name}"]) for name in LANGUAGES}
        return {name: [str(word) for word in made.result()] for name, made in making.items()}


class Servers:
    """A NATS server with users, and a fleet on it, each ended by its process id."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="nats-examples-"))
        self._running = []

    def start(self, name, words, env):
        """Starts a process; stores its output under its name."""
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(words, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running.append(process)
        return process

    def printed(self, name):
        """The output of a process so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait(self, name, process, ready):
        """Calls the function until it returns a true value, and returns that; fails if the process ends before."""
        end = time.monotonic() + READY_MAX_SECONDS
        while not (found := ready()):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} is not ready:\n{self.printed(name)}")
            time.sleep(0.1)
        return found

    def start_nats(self):
        """Starts the server on a free port and returns its URL."""
        ports = self.folder / "ports"
        ports.mkdir()
        words = [NATS_SERVER, "-c", str(ROOT / "nats/accounts.conf"), "-a", "127.0.0.1", "-p", "-1"]
        env = {f"NATS_PASSWORD_{user}": PASSWORD for user in USERS}
        process = self.start(
            "nats-server", [*words, "--ports_file_dir", str(ports)], {**env, "NATS_STORE_DIR": f'"{self.folder}/streams"'}
        )

        def url():
            try:
                return json.loads(next(ports.iterdir()).read_text())["nats"][0]
            except (StopIteration, ValueError):
                return None

        return self.wait("nats-server", process, url)

    def start_fleet(self, url):
        """Starts a fleet on that server, with the table of the last one, and waits until it is ready."""
        words = [str(BROKER), "up", "--nodes", "0", "--data", str(self.folder / "data"), "--pool", "20", "--nats-url", url]
        for flag in ("http", "simulator-listen"):
            words += [f"--{flag}", "127.0.0.1:0"]
        self.start_broker(words, {"NATS_USER": "{role}", "NATS_PASSWORD": PASSWORD})

    def start_broker(self, words, env):
        """Starts a fleet and waits until it is ready."""
        process = self.start("broker", words, env)
        self.wait("broker", process, lambda: re.search(r" http +\S*http://", self.printed("broker")))

    def finish(self, running):
        """Waits for the examples; the names of those that failed, with their output."""
        failed = []
        for name, process in running.items():
            try:
                code = process.wait(RUN_MAX_SECONDS)
            except subprocess.TimeoutExpired:
                code = "no end"
            if code != 0:
                failed.append(name)
                print(f"FAILED {name} ended with {code}:\n{self.printed(name)}")
            elif os.environ.get("SHOW"):
                print(f"== {name}\n{self.printed(name)}")
        if failed:
            print(self.printed("broker")[-4000:])
        return failed

    def stop_last(self):
        """Ends the process that was started last."""
        process = self._running.pop()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_MAX_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self):
        """Ends all processes, the last one first."""
        while self._running:
            self.stop_last()
        shutil.rmtree(self.folder, ignore_errors=True)


def without_settings(commands):
    """Runs the examples beside a `broker up` without options, as in two terminals; returns 0 if all succeeded."""
    servers = Servers()
    try:
        servers.start_broker([str(BROKER), "up", "--nodes", "0", "--ephemeral", "--pool", "20"], {"NATS_SERVER": NATS_SERVER})
        return 1 if servers.finish({name: servers.start(name, words, {}) for name, words in commands.items()}) else 0
    finally:
        servers.stop()


def main():
    """Returns 0 if every example ran, succeeded, and made the expected changes by the event log."""
    began = time.monotonic()
    servers = Servers()
    try:
        with ThreadPoolExecutor() as pool:
            installing = pool.submit(install)
            url = servers.start_nats()
            # Fill the table meanwhile, so that the later fleet has sandboxes from its start.
            servers.start_fleet(url)
            servers.stop_last()
            commands = installing.result()
        installed = time.monotonic() - began
        env = {name: value for name, value in os.environ.items() if name != "OWNER" and not name.startswith("NATS_")}
        env |= {"NATS_SERVER": NATS_SERVER, "PYTHONPATH": str(CACHE / "python"), "PYTHONDONTWRITEBYTECODE": "1"}
        words = [*SEPARATE_NETWORK, sys.executable, __file__, json.dumps(commands)]
        plain = subprocess.run(words, env=env, timeout=READY_MAX_SECONDS + RUN_MAX_SECONDS, check=False)
        failed = [] if plain.returncode == 0 else ["without settings"]
        env["NATS_URL"] = url
        verify = [sys.executable, str(HERE / "verify.py")]
        users = {"NATS_USER": "service", "NATS_PASSWORD": PASSWORD, "NATS_PASSWORD_AUDITOR": PASSWORD}
        running = {}
        for name, words in commands.items():
            running[name] = servers.start(name, words, {**env, **users, "OWNER": f"example-{name}"})
        # There is no worker yet: each example must detect that and repeat.
        for name, process in running.items():
            servers.wait(name, process, lambda name=name: "attempt 1" in servers.printed(name))
        as_verifier = {**env, "PASSWORD": PASSWORD}
        stand_in = subprocess.run([*verify, "stand-in", *LANGUAGES], env=as_verifier, timeout=RUN_MAX_SECONDS, check=False)
        failed += [] if stand_in.returncode == 0 else ["the stand-in"]
        servers.start_fleet(url)
        failed += servers.finish(running)
        if not failed:
            books = subprocess.run([*verify, "books", *LANGUAGES], env=as_verifier, timeout=RUN_MAX_SECONDS, check=False)
            failed += [] if books.returncode == 0 else ["the books"]
    finally:
        servers.stop()
    ran = len(running)
    took = time.monotonic() - began
    print(f"NATS clients by {', '.join(LANGUAGES)}: {ran} ran, {len(failed)} failed, {took:.0f} s ({installed:.0f} s to install)")
    return 0 if ran == len(LANGUAGES) and not failed else 1


if __name__ == "__main__":
    sys.exit(without_settings(json.loads(sys.argv[1])) if len(sys.argv) > 1 else main())
