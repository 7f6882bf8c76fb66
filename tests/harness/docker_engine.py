"""A Docker engine that a test alone uses, in the network namespace of this process."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from fleet import POLL_SECONDS, ROOT, Broken, wait

# Debian's client builds with BuildKit without a plugin; a later one, perhaps first on the PATH, does not.
DOCKER = "/usr/bin/docker"
BRIDGE = "10.88.99.1/24"
CONTROL_GROUPS = "/sys/fs/cgroup"
# The path of a socket has at most 107 bytes, and containerd adds up to 45 to that of the folder.
FOLDER_BYTES_MAX = 59

READY_MAX_SECONDS = 60
STOP_MAX_SECONDS = 60
COMMAND_MAX_SECONDS = 300


class CannotStart(Broken):
    """The machine runs no Docker engine."""


class Engine:
    """A dockerd with its own folder, ended by its process id."""

    def __init__(self, name, **env):
        self.folder = make_folder(name)
        self.socket = self.folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        # The settings of this user's client are not used.
        self.env = {**os.environ, "DOCKER_HOST": self.url, "DOCKER_CONFIG": str(self.folder), **env}
        self.log = self.folder / "log"
        self.process = None

    def start(self):
        """Starts it; the network namespace of this process has to be a new one."""
        (self.folder / "daemon.json").write_text("{}")
        # Without loopback, no port can be published on it.
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=COMMAND_MAX_SECONDS)
        self.process = spawn(["dockerd", "--host", self.url, "--bip", BRIDGE, "--data-root", self.folder / "data",
                              "--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid",
                              "--config-file", self.folder / "daemon.json"], self.log, self.env)

    def wait_ready(self):
        """Waits until it answers."""
        def answers():
            if self.process.poll() is not None:
                raise CannotStart(f"dockerd ended with {self.process.returncode}")
            return self.run("version", is_checked=False).returncode == 0

        wait("dockerd", answers, READY_MAX_SECONDS)

    def run(self, *words, is_checked=True, seconds=COMMAND_MAX_SECONDS, **options):
        """Runs the docker client, from the root of the repository."""
        run = subprocess.run([DOCKER, *map(str, words)], cwd=ROOT, env=self.env, capture_output=True, check=False,
                             timeout=seconds, **options)
        if is_checked and run.returncode:
            raise Broken(f"docker {' '.join(map(str, words))} ended with {run.returncode}:\n"
                         f"{(run.stdout + run.stderr).decode(errors='replace')}")
        return run

    def output(self, *words):
        """What the docker client prints."""
        return self.run(*words).stdout.decode().strip()

    def printed(self):
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def stop(self):
        """Ends it and what a killed one left below this process, removes its folder, and returns its exit code."""
        code = end(self.process)
        end_children()
        containers = self.folder / "data/containers"
        remove_control_groups([each.name for each in containers.iterdir()] if containers.exists() else [])
        for path in mounts_below(self.folder):
            subprocess.run(["umount", "--lazy", path], check=False, timeout=COMMAND_MAX_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise Broken(f"{self.folder} could not be removed")
        return code


def make_folder(name):
    """A new folder with a short path."""
    parent = tempfile.gettempdir()
    # mkdtemp adds eight characters.
    if len(os.fsencode(f"{parent}/{name}-")) + 8 > FOLDER_BYTES_MAX:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def spawn(words, log, env=None):
    """Starts a daemon that Ctrl-C does not reach, and that ends with this process even if that is killed."""
    with log.open("ab") as out:
        return subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *words], env=env, stdin=subprocess.DEVNULL, stdout=out,
                                stderr=out, start_new_session=True)


def end(process):
    """Ends a daemon, also a frozen one, and returns its exit code."""
    if process is None:
        return None
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    try:
        return process.wait(STOP_MAX_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def end_children():
    """Kills all children of this process. Of one that adopts orphans, these are all processes that it caused."""
    end_at = time.monotonic() + STOP_MAX_SECONDS
    while children := children_of(os.getpid()):
        if time.monotonic() > end_at:
            raise Broken(f"processes {children} cannot be killed")
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        time.sleep(POLL_SECONDS)


def children_of(parent):
    """The ids of the processes that have this parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # After the name, which may contain anything: state, parent.
            if int(path.read_text(errors="replace").rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def remove_control_groups(containers):
    """Removes the control groups of containers whose engine was killed."""
    if not containers:
        return
    for path, _, _ in os.walk(CONTROL_GROUPS, topdown=False):
        if any(each in path for each in containers):
            # One that the kernel still empties stays; an empty one does no harm.
            with contextlib.suppress(OSError):
                os.rmdir(path)


def mounts_below(folder):
    """Where something is mounted below a folder, the last mount first."""
    points = (re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
              for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if point.startswith(f"{folder}/")][::-1]
