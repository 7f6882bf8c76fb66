#!/usr/bin/env python3
"""Runs a command beside a Docker engine and a registry that only it uses, and ends with its exit code.

    tests/harness/with_docker.py COMMAND...

Everything is in new namespaces of network and mounts: ports, bridges, rules and mounts of the machine stay as they are, and the
command reaches no other network. The engine has the images of docker_images.py, and so has the registry. The command finds these
variables:

    DOCKER_HOST               URL of the engine
    TEST_DOCKER_SOCKET        path of its socket
    TEST_DOCKER_PID           process id of the engine
    TEST_DOCKER_IMAGES        folder with the images as files for `docker load`
    TEST_DOCKER_REGISTRY      address of the registry, the first part of the names of its images
    TEST_DOCKER_REGISTRY_PID  process id of the registry

It may kill or freeze both. Needs root on Debian (tools/docker.sh), and a machine that runs an engine; else it ends with code 3.
"""

import contextlib
import ctypes
import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from docker_engine import CannotStart, Engine, end, spawn
from docker_images import make_images
from fleet import ROOT, Broken, wait

# As tools/docker.sh ends where it cannot install an engine.
LEFT_OUT = 3
REGISTRY = "localhost:5000"
REGISTRY_SETTINGS = """version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{folder}"}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:5000"}}
"""
REGISTRY_READY_MAX_SECONDS = 20
CALL_MAX_SECONDS = 5
# What the command may take after a signal.
COMMAND_END_MAX_SECONDS = 10
REMOVAL_MAX_SECONDS = 60
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36
SHIM_SOCKETS = Path("/run/containerd")


class Ended(BaseException):
    """A signal ended this process."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


class Machine:
    """Engine and registry, in the folder of the engine."""

    def __init__(self, tools):
        self.tools = tools
        self.engine = Engine("docker")
        self.images = self.engine.folder / "images"
        self.registry_log = self.engine.folder / "registry.log"
        self.registry = None
        self.command = None

    def start(self):
        """Starts both, and gives them the images."""
        self.engine.start()
        settings = self.engine.folder / "registry.yml"
        settings.write_text(REGISTRY_SETTINGS.format(folder=self.engine.folder / "registry"))
        self.registry = spawn([self.tools / "docker-registry", "serve", settings], self.registry_log)
        self.images.mkdir()
        files = make_images(self.tools / "busybox", self.images)
        self.engine.wait_ready()
        wait("the registry", self.registry_answers, REGISTRY_READY_MAX_SECONDS)
        for name, path in files.items():
            self.engine.run("load", "--input", path)
            self.engine.run("tag", name, f"{REGISTRY}/{name}")
            self.engine.run("push", f"{REGISTRY}/{name}")
            self.engine.run("rmi", f"{REGISTRY}/{name}")

    def registry_answers(self):
        """Whether it takes requests."""
        if self.registry.poll() is not None:
            raise Broken(f"the registry ended with {self.registry.returncode}:\n{self.registry_log.read_text(errors='replace')}")
        connection = http.client.HTTPConnection(REGISTRY, timeout=CALL_MAX_SECONDS)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/v2/")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False

    def run(self, words):
        """Runs the command, and returns its exit code."""
        env = {**os.environ, "DOCKER_HOST": self.engine.url, "TEST_DOCKER_SOCKET": str(self.engine.socket),
               "TEST_DOCKER_PID": str(self.engine.process.pid), "TEST_DOCKER_IMAGES": str(self.images),
               "TEST_DOCKER_REGISTRY": REGISTRY, "TEST_DOCKER_REGISTRY_PID": str(self.registry.pid)}
        self.command = subprocess.Popen(words, env=env)
        own = {each.pid: each for each in (self.command, self.engine.process, self.registry)}
        while self.command.returncode is None:
            pid = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT).si_pid
            if pid in own:
                own[pid].wait()
            else:
                # An orphan, for which this process is what process 1 is elsewhere.
                os.waitpid(pid, 0)
        code = self.command.returncode
        return code if code >= 0 else 128 - code

    def stop(self):
        """Ends everything and leaves nothing."""
        if self.command and self.command.poll() is None:
            self.command.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.command.wait(COMMAND_END_MAX_SECONDS)
        try:
            end(self.registry)
            self.remove_containers()
        finally:
            self.engine.stop()

    def remove_containers(self):
        """Removes them at once; an engine that ends would wait for each."""
        process = self.engine.process
        if not process or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            listed = self.engine.run("ps", "--all", "--quiet", is_checked=False, seconds=REMOVAL_MAX_SECONDS)
            if ids := listed.stdout.decode().split():
                self.engine.run("rm", "--force", *ids, is_checked=False, seconds=REMOVAL_MAX_SECONDS)


def enter():
    """Gets the tools and starts again in new namespaces, unless those of this process differ from its parent's."""
    is_root = os.geteuid() == 0
    if is_root and all(os.readlink(f"/proc/self/ns/{kind}") != os.readlink(f"/proc/{os.getppid()}/ns/{kind}")
                       for kind in ("net", "mnt")):
        return
    prepared = subprocess.run([ROOT / "tools/docker.sh"], stdout=subprocess.DEVNULL, check=False)
    if prepared.returncode:
        sys.exit(prepared.returncode)
    os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])


def hide_sockets():
    """Lets the sockets of containers, which no setting moves and which stay when an engine is killed, end with the namespace."""
    SHIM_SOCKETS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", SHIM_SOCKETS], check=True, timeout=REMOVAL_MAX_SECONDS)


def main():
    """Runs the command of the arguments; returns its exit code."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    enter()
    hide_sockets()
    # Containers whose engine was killed become children of this process, which ends them.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    for number in ENDING_SIGNALS:
        signal.signal(number, raise_ended)
    began = time.monotonic()
    machine = Machine(ROOT / ".tools/docker")
    try:
        machine.start()
        print(f"with_docker: ready after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        return machine.run(sys.argv[1:])
    except Ended as ended:
        return 128 + ended.number
    except CannotStart as failure:
        print(f"{machine.engine.printed()}\nwith_docker: LEFT OUT: no Docker engine starts on this machine: {failure}",
              file=sys.stderr, flush=True)
        return LEFT_OUT
    except (Broken, OSError, subprocess.SubprocessError) as failure:
        log = "" if isinstance(failure, OSError) else machine.engine.printed()
        print(f"{log}\nwith_docker: FAILED: {type(failure).__name__}: {failure}", file=sys.stderr, flush=True)
        return 1
    finally:
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        machine.stop()


def raise_ended(number, _frame):
    """Handles a signal that ends this process."""
    raise Ended(number)


if __name__ == "__main__":
    sys.exit(main())
