#!/usr/bin/env python3
"""Runs the commands of README.md in their order, and then those that `make up` prints, as a reader would who has just run it.

The commands are the `sh` blocks. One shell runs all of them, so a variable of one block has its value in the next one, and
ends at the first that fails. Only the addresses and the data folder of `make up` are replaced by those of this fleet. The
output has to have the shape of the `json` block that follows: the same fields, with values of the same types.
`make install` installs the binary of this test instead of a release build, into a new home folder.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "harness"))
from fleet import BROKER, READY_MAX_SECONDS, ROOT, Broken, Fleet  # noqa: E402

POOL = 20
# The fleet of this test is the first one's, and the second one runs this test.
NOT_RUN = ("make up", "make test")
# What a reader has from `make up` without options.
HTTP, NATS, DATA = "127.0.0.1:8080", "127.0.0.1:4222", ".broker/"


class Block:
    """Commands, with the output that the document shows."""

    def __init__(self, place, commands, shown=None):
        self.place, self.commands, self.shown = place, commands, shown


def blocks(text, has_nodes):
    """The commands of a document, without those for containers where there are none."""
    if not has_nodes:
        text = re.sub(r"^## A first container$.*?(?=^## )", lambda part: "\n" * part[0].count("\n"), text,
                      flags=re.MULTILINE | re.DOTALL)
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language, code = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        if language == "sh":
            lines = [line for line in code.splitlines() if line.split("#")[0].strip() not in NOT_RUN]
            if any(lines):
                found.append(Block(f"README.md:{line}", "\n".join(lines)))
        elif language == "json":
            if not found or found[-1].shown is not None:
                raise Broken(f"README.md:{line}: an output without a command")
            found[-1].shown = code
    return found


def for_fleet(block, fleet):
    """The commands, with the addresses and the folder of this fleet."""
    replaced = {f"http://{HTTP}": fleet.url, f"nats://{NATS}": fleet.shown("nats"), DATA: f"{fleet.shown('data')}/"}
    commands = block.commands
    for old, new in replaced.items():
        commands = commands.replace(old, new)
    return commands


def run(document, fleet):
    """Runs the commands; the outputs of the blocks."""
    home, outputs = fleet.folder / "home", fleet.folder / "outputs"
    home.mkdir()
    outputs.mkdir()
    script = []
    for number, block in enumerate(document):
        script += [f'exec >"{outputs}/{number}" 2>"{outputs}/{number}.errors"', for_fleet(block, fleet)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "NATS_"))}
    env |= {"HOME": str(home), "MAKEFLAGS": f"BROKER={BROKER}", "NATS_URL": fleet.shown("nats")}
    ended = subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join(script)], cwd=ROOT, env=env,
                           stdin=subprocess.DEVNULL, timeout=READY_MAX_SECONDS, check=False)
    begun = len(list(outputs.iterdir())) // 2
    if ended.returncode:
        errors = (outputs / f"{begun - 1}.errors").read_text()
        raise Broken(f"{document[begun - 1].place}: ended with {ended.returncode}: {errors}")
    return [(outputs / str(number)).read_text() for number in range(begun)]


def values(text):
    """The JSON objects in a text, which may contain other lines as well."""
    found, decoder = [], json.JSONDecoder()
    while (start := text.find("{")) >= 0:
        value, end = decoder.raw_decode(text[start:])
        found.append(value)
        text = text[start + end:]
    return found


def shape(value):
    """The fields of an object and the types of their values."""
    return {name: shape(field) for name, field in value.items()} if isinstance(value, dict) else type(value).__name__


def check(block, output):
    """Compares an output with what the document shows; the sandboxes that the output names."""
    actual, expected = values(output), values(block.shown or "")
    if any("detail" in value for value in actual):
        raise Broken(f"{block.place}: was refused: {output}")
    if block.shown is not None and [shape(value) for value in actual] != [shape(value) for value in expected]:
        raise Broken(f"{block.place}: shows another output than {output}")
    return {value["sandbox_id"] for value in actual if "sandbox_id" in value}


def check_pages(fleet):
    """Opens the pages of the printed table."""
    for name in ("console", "docs"):
        with urllib.request.urlopen(fleet.shown(name), timeout=READY_MAX_SECONDS) as answer:
            if not answer.headers["Content-Type"].startswith("text/html"):
                raise Broken(f"{answer.url} is no page")


def walk(fleet):
    """Runs everything; the number of blocks."""
    fleet.wait_ready()
    has_nodes = "  nodes  " in fleet.printed()
    if not has_nodes:
        print("readme: left out: containers, which this machine does not run")
    document = blocks((ROOT / "README.md").read_text(), has_nodes)
    tried = re.search(r"Try it:\n\n((?:  .*\n)+)", fleet.printed())
    if not tried:
        raise Broken(f"no commands to try in:\n{fleet.printed()}")
    # After those of the document, which install `nats`.
    printed = [Block("the message of `make up`", line.strip()) for line in tried[1].splitlines()]
    named = [check(block, output) for block, output in zip(document + printed, run(document + printed, fleet))]
    of_readme = set().union(*named[:len(document)])
    if len(of_readme) != 1 + has_nodes:
        raise Broken(f"README.md: expected one sandbox, and one container where there are some, found {of_readme}")
    check_pages(fleet)
    return len(named)


def main():
    """Returns 0 if every command did what the document says."""
    folder = Path(tempfile.mkdtemp(prefix="broker-readme-"))
    fleet = Fleet(folder, POOL, nodes=1)
    try:
        ran = walk(fleet)
        code = fleet.stop()
    except (Broken, OSError, ValueError, subprocess.SubprocessError) as failure:
        print(fleet.printed()[-4000:], flush=True)
        print(f"readme: FAILED: {type(failure).__name__}: {failure}", flush=True)
        return 1
    finally:
        if fleet.process.poll() is None:
            fleet.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"readme: {ran} blocks ran, exit code of the broker {code}")
    return 1 if code or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
