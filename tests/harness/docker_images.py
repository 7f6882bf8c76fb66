"""Images for tests of a Docker engine, made of busybox because no registry is reached. Some have the names of published images, so
that tests read like the commands of users; the file /TEST-IMAGE and a label say that they are stand-ins."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile

LABEL = "org.sandbox-broker.test-image"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The id that plain users have in these images.
USER_ID = 1000
FOLDERS = ("bin", "dev", "etc", "home", "home/user", "proc", "root", "run", "srv", "sys", "usr", "usr/bin", "usr/local",
           "usr/local/bin", "usr/sbin", "usr/share", "usr/share/nginx", "usr/share/nginx/html", "var", "workspace")
OPEN_FOLDERS = ("tmp", "var/tmp")
USERS_FOLDERS = ("home/user", "workspace")
# Fixed, so that the ids of the images are the same on every run.
CREATED = "1970-01-01T00:00:00Z"
COMMAND_MAX_SECONDS = 30

# As process 1 it would not end by a signal without a trap.
NGINX = """#!/bin/sh
# Stand-in for nginx: serves files with httpd of busybox. Like nginx it ends with 0 on SIGQUIT, SIGTERM and SIGINT.
case "$*" in
'' | '-g daemon off;') ;;
*)
    echo "nginx of the test image: unknown arguments: $*" >&2
    exit 1
    ;;
esac
httpd -f -p 80 -h /usr/share/nginx/html &
server=$!
trap 'kill "$server"; exit 0' QUIT TERM INT
wait "$server"
"""

PYTHON = """#!/bin/sh
# Stand-in for Python: knows `-m http.server [PORT]`, which is httpd of busybox; else it only says what it is.
if [ "$1" = -m ] && [ "$2" = http.server ]; then
    httpd -f -p "${3:-8000}" -h . &
    server=$!
    trap 'kill "$server"; exit 0' TERM INT
    wait "$server"
    exit
fi
echo 'python stand-in'
"""

ECHO_ENTRY = """#!/bin/sh
# Prints who and where it is, and each of its arguments on a line.
echo "user $(id -u)"
echo "folder $(pwd)"
for argument; do
    echo "argument $argument"
done
"""

# By name: files with their mode, and the configuration as `docker inspect` shows it.
IMAGES = {
    "busybox:latest": ({}, {"Cmd": ["sh"], "WorkingDir": "/"}),
    "nginx:alpine": (
        {"usr/sbin/nginx": (NGINX, 0o755), "usr/share/nginx/html/index.html": ("test image of nginx\n", 0o644)},
        {"Cmd": ["nginx", "-g", "daemon off;"], "Env": [PATH, "NGINX_VERSION=1.27.0"], "ExposedPorts": {"80/tcp": {}},
         "StopSignal": "SIGQUIT"}),
    "python:3.11-slim": (
        {f"usr/local/bin/{name}": (PYTHON, 0o755) for name in ("python", "python3", "python3.11")},
        {"Cmd": ["python3"], "Env": ["PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
                                     "PYTHON_VERSION=3.11.0"], "WorkingDir": "/"}),
    "test/entrypoint:1": (
        {"bin/echo-entry": (ECHO_ENTRY, 0o755)},
        {"Entrypoint": ["/bin/echo-entry"], "Cmd": ["first", "second argument"], "User": "1234", "WorkingDir": "/srv"}),
}


class Layer:
    """A tar file in memory, the same bytes on every run."""

    def __init__(self):
        self.packed = io.BytesIO()
        self.archive = tarfile.open(fileobj=self.packed, mode="w")

    def folder(self, path, mode=0o755, owner=0):
        """Adds a folder."""
        self._add(path, tarfile.DIRTYPE, mode, owner=owner)

    def file(self, path, content, mode=0o644):
        """Adds a file."""
        self._add(path, tarfile.REGTYPE, mode, content if isinstance(content, bytes) else content.encode())

    def link(self, path, target):
        """Adds a symbolic link."""
        self._add(path, tarfile.SYMTYPE, 0o777, target=target)

    def content(self):
        """The finished file."""
        self.archive.close()
        return self.packed.getvalue()

    def _add(self, path, kind, mode, content=b"", target="", owner=0):
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.linkname, entry.size = kind, mode, target, len(content)
        entry.uid = entry.gid = owner
        self.archive.addfile(entry, io.BytesIO(content))


def make_images(busybox, folder):
    """Writes each image into the folder as a file for `docker load`; returns the files by the names of the images."""
    base = base_layer(busybox)
    written = {}
    for name, (files, config) in IMAGES.items():
        layer = Layer()
        layer.file("TEST-IMAGE", f"This is a test image of the sandbox broker, made of busybox. It stands in for {name}.\n")
        for path, (content, mode) in files.items():
            layer.file(path, content, mode)
        config = {"Env": [PATH], **config, "Labels": {LABEL: "true"}}
        written[name] = folder / (name.replace("/", "-").replace(":", "-") + ".tar")
        write_image(written[name], name, config, [base, layer.content()])
    return written


def base_layer(busybox):
    """The files that all images have: busybox as each of its programs, users, and folders."""
    layer = Layer()
    for path in FOLDERS:
        layer.folder(path, owner=USER_ID if path in USERS_FOLDERS else 0)
    for path in OPEN_FOLDERS:
        layer.folder(path, 0o1777)
    layer.file("etc/passwd", f"root:x:0:0:root:/root:/bin/sh\nuser:x:{USER_ID}:{USER_ID}:user:/home/user:/bin/sh\n")
    layer.file("etc/group", f"root:x:0:\nuser:x:{USER_ID}:\n")
    layer.file("bin/busybox", busybox.read_bytes(), 0o755)
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True, timeout=COMMAND_MAX_SECONDS)
    for name in sorted(set(listed.stdout.split()) - {"busybox"}):
        layer.link(f"bin/{name}", "busybox")
    return layer.content()


def write_image(path, name, config, layers):
    """Writes an image in the format of `docker save`."""
    ids = [hashlib.sha256(layer).hexdigest() for layer in layers]
    machine = platform.machine()
    image = json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine), "os": "linux", "created": CREATED,
        "config": config, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in ids]},
        "history": [{"created": CREATED, "created_by": "tests/harness/docker_images.py"} for _ in ids],
    }, sort_keys=True).encode()
    image_file = f"{hashlib.sha256(image).hexdigest()}.json"
    manifest = [{"Config": image_file, "RepoTags": [name], "Layers": [f"{each}/layer.tar" for each in ids]}]
    archive = Layer()
    archive.file("manifest.json", json.dumps(manifest))
    archive.file(image_file, image)
    for each, layer in zip(ids, layers):
        archive.file(f"{each}/layer.tar", layer)
    path.write_bytes(archive.content())
