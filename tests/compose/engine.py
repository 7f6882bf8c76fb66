"""A Docker engine of this test alone, and the images that compose.yaml needs: no registry is asked for anything."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "harness"))
from fleet import BROKER, ROOT, Broken, wait  # noqa: E402

NATS_SERVER = Path(os.environ.get("NATS_SERVER") or ROOT / ".tools/nats-server")
# Debian's client builds with BuildKit without a plugin; a later one, perhaps first on the PATH, does not.
DOCKER = "/usr/bin/docker"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE_IMAGE = "debian:bookworm-slim"
BRIDGE = "10.88.99.1/24"

READY_MAX_SECONDS = 60
STOP_MAX_SECONDS = 60
COMMAND_MAX_SECONDS = 300


class Engine:
    """A running dockerd with its own folder, ended by its process id."""

    def __init__(self, tools):
        # Short, because the path of a socket has at most 107 bytes.
        self.tools = tools
        self.folder = Path(tempfile.mkdtemp(prefix="compose-"))
        socket = f"unix://{self.folder}/docker.sock"
        self.env = {**os.environ, "DOCKER_HOST": socket, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(tools)}
        (self.folder / "daemon.json").write_text("{}")
        self.log = self.folder / "log"
        # The network namespace of this process is new; without loopback, no port can be published on it.
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=COMMAND_MAX_SECONDS)
        words = ["dockerd", "--host", socket, "--bip", BRIDGE, "--data-root", self.folder / "data",
                 "--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid",
                 "--config-file", self.folder / "daemon.json"]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(words, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def wait_ready(self):
        """Waits until it answers."""
        def answers():
            if self.process.poll() is not None:
                raise Broken(f"dockerd ended with {self.process.returncode}")
            return self.run("version", is_checked=False).returncode == 0

        wait("dockerd", answers, READY_MAX_SECONDS)

    def run(self, *words, is_checked=True, **options):
        """Runs the docker client, from the root of the repository."""
        run = subprocess.run([DOCKER, *map(str, words)], cwd=ROOT, env=self.env, capture_output=True, check=False,
                             timeout=COMMAND_MAX_SECONDS, **options)
        if is_checked and run.returncode:
            raise Broken(f"docker {' '.join(map(str, words))} ended with {run.returncode}:\n"
                         f"{(run.stdout + run.stderr).decode(errors='replace')}")
        return run

    def output(self, *words):
        """What the docker client prints."""
        return self.run(*words).stdout.decode().strip()

    def stop(self):
        """Ends it, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_MAX_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code

    def make_images(self, broker, nats):
        """Imports the base image and that of NATS, and builds that of the broker by deploy/Dockerfile."""
        self.run("import", self.tools / "debian.tar", BASE_IMAGE)
        self.run("import", "--change", 'ENTRYPOINT ["/bin/nats-server"]', "--change", "ENV PATH=/bin", "-", nats,
                 input=nats_files(self.tools / "busybox"))
        context = self.folder / "context"
        (context / "deploy").mkdir(parents=True)
        for source, target in ((BROKER, "broker"), (CERTIFICATES, CERTIFICATES.name),
                               (ROOT / "deploy/ready.sh", "deploy/ready.sh")):
            shutil.copy(source, context / target)
        self.run("build", "--build-arg", "BINARY=given", "--file", ROOT / "deploy/Dockerfile", "--tag", broker, context)


def nats_files(busybox):
    """What of the image of NATS is used, as a tar file: the server, and the wget of its health check."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(NATS_SERVER.resolve(), "bin/nats-server")
        archive.add(busybox, "bin/busybox")
        link = tarfile.TarInfo("bin/wget")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    return packed.getvalue()
