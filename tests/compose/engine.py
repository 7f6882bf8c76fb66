"""A Docker engine with the images that compose.yaml needs: no registry is asked for anything."""

import io
import os
import shutil
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "harness"))
from docker_engine import Engine  # noqa: E402
from fleet import BROKER, ROOT  # noqa: E402

NATS_SERVER = Path(os.environ.get("NATS_SERVER") or ROOT / ".tools/nats-server")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE_IMAGE = "debian:bookworm-slim"


class ComposeEngine(Engine):
    """An engine whose client has Docker Compose; the argument is the folder of tools/docker.sh."""

    def __init__(self, tools):
        super().__init__("compose", DOCKER_BUILDKIT="1", DOCKER_CONFIG=str(tools))
        self.tools = tools

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
