"""What stands in the files: hostile names stay text, and a kill at any moment leaves no half."""

import json
import os
import shutil
import subprocess
import unittest
from dataclasses import dataclass

from tests import behaviour
from tests.proxy import HANG, change, change_raw, lie
from tests.rig import (
    ALLOCATED_FILES,
    IMPLEMENTATIONS,
    Lab,
    finish,
    fleet,
    for_each_full_implementation,
    for_each_implementation,
    wait,
    with_rows,
)

# The first is the note of an open claim, then come the files.
RENAMES = 1 + len(ALLOCATED_FILES)

SHELL_KILLER = """#!/bin/sh
# Kills the script at its rename number $KILL_AT, before or after it is done.
n=$(($(cat "$KILL_COUNT" 2>/dev/null || echo 0) + 1))
echo "$n" >"$KILL_COUNT"
[ "$n" != "$KILL_AT" ] || [ "$KILL_WHEN" != before ] || kill -9 "$PPID"
PATH=$KILL_PATH mv "$@"
[ "$n" != "$KILL_AT" ] || kill -9 "$PPID"
"""
PYTHON_KILLER = """import os, signal
_replace, _count = os.replace, 0
def _killing(*arguments, **options):
    global _count
    _count += 1
    here = _count == int(os.environ["KILL_AT"])
    if here and os.environ["KILL_WHEN"] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    _replace(*arguments, **options)
    if here:
        os.kill(os.getpid(), signal.SIGKILL)
if "KILL_AT" in os.environ:
    os.replace = _killing
"""


@dataclass(frozen=True)
class Moment:
    """When a command is killed."""

    number: int
    when: str

    @property
    def name(self):
        """For the name of the test."""
        return f"{self.when} {self.number}"


MOMENTS = (Moment(1, "before"), *(Moment(number, "after") for number in range(1, RENAMES + 1)))


@dataclass(frozen=True)
class Name:
    """One hostile name."""

    number: int
    text: str

    @property
    def name(self):
        """For the name of the test."""
        return str(self.number)


NAMES = tuple(Name(number, text) for number, text in enumerate(behaviour.HOSTILE_NAMES))


def starts_mv(implementation):
    """Whether a script renames with the `mv` on the PATH, which a test can replace: busybox may have its own."""
    words = [*implementation.words, "-c", "command -v mv"]
    return subprocess.run(words, capture_output=True, check=True).stdout.startswith(b"/")


KILLABLE = [each for each in IMPLEMENTATIONS if each.is_full and (each.is_python or starts_mv(each))]


def killed(lab, moment):
    """Runs allocate and kills it; returns the files that were there then."""
    tools = lab.folder.with_name(lab.folder.name + "-tools")
    tools.mkdir()
    (tools / "mv").write_text(SHELL_KILLER)
    (tools / "mv").chmod(0o755)
    (tools / "sitecustomize.py").write_text(PYTHON_KILLER)
    try:
        run = lab.run(
            "allocate",
            PATH=f"{tools}:{lab.env['PATH']}",
            PYTHONPATH=f"{tools}:{lab.env['PYTHONPATH']}",
            KILL_AT=str(moment.number),
            KILL_WHEN=moment.when,
            KILL_PATH=lab.env["PATH"],
            KILL_COUNT=str(tools / "count"),
        )
    finally:
        for entry in sorted(tools.rglob("*"), reverse=True):
            entry.rmdir() if entry.is_dir() else entry.unlink()
        tools.rmdir()
    lab.case.assertEqual(run.code, -9, run.output)
    return {name: lab.text(name) for name in lab.names() if not name.startswith(".")}


class KilledAtRename(unittest.TestCase):
    """kill -9 at each rename."""

    @with_rows(MOMENTS)
    def check_allocate_goes_on(self, lab, moment):
        before = killed(lab, moment)
        lab.must("allocate")
        lab.holds_one()
        for name, text in before.items():
            if name != "allocation_pending.txt":
                self.assertEqual(lab.text(name), text, name)
        self.assertNotIn("allocation_pending.txt", lab.names())
        self.assertLessEqual(set(ALLOCATED_FILES), set(lab.names()))

    @with_rows(MOMENTS)
    def check_cleanup_gives_back(self, lab, moment):
        killed(lab, moment)
        lab.must("cleanup")
        lab.holds_none()
        self.assertNotIn("allocation_pending.txt", lab.names())

    def check_over_files_of_an_earlier_sandbox(self, lab):
        lab.must("allocate")
        old = lab.holds_one()
        lab.must("cleanup")
        lab.holds_none()
        before = killed(lab, Moment(3, "after"))
        self.assertNotEqual(before["subtenant_id.txt"], old)
        self.assertNotIn("sandbox_env.sh", before)
        lab.must("cleanup")
        lab.holds_none()


for_each_implementation(KilledAtRename, KILLABLE)


@for_each_full_implementation
class Killed(unittest.TestCase):
    """A signal during a call or a pause."""

    def check_while_waiting_for_an_answer(self, lab):
        with fleet().line(forever=lie(503)) as line:
            process = lab.start("allocate", BROKER_API_URL=line.url)
            wait("the first request", lambda: line.seen)
            wait("the claim", lambda: fleet().held(lab.owner))
            process.kill()
            finish(process)
        lab.must("cleanup")
        lab.holds_none()

    def check_a_signal_that_asks(self, lab):
        with fleet().line(forever=lie(503)) as line:
            process = lab.start("allocate", BROKER_API_URL=line.url)
            wait("the first request", lambda: line.seen)
            process.terminate()
            self.assertIn(finish(process).code, (143, -15))
        lab.must("cleanup")
        lab.holds_none()

    def check_a_signal_during_a_call(self, lab):
        """Neither the command nor what it started outlives the signal: both hold the pipe that is read to its end."""
        with fleet().line(forever=HANG) as line:
            process = lab.start("allocate", BROKER_API_URL=line.url, LAB_TIMEOUT_SECONDS="600")
            wait("the first request", lambda: line.seen)
            process.terminate()
            self.assertIn(finish(process).code, (143, -15))
            self.assertEqual(line.outlasted, 0)
        lab.must("cleanup")
        lab.holds_none()

    def check_a_signal_during_a_wait(self, lab):
        patient = {"LAB_WAIT_SECONDS": "900", "LAB_BACKOFF_MS": "900000", "LAB_BACKOFF_MAX_MS": "900000"}
        with fleet().line(forever=lie(503)) as line:
            process = lab.start("allocate", BROKER_API_URL=line.url, **patient)
            self.assertIn(b"next try in", process.stdout.readline())
            process.terminate()
            self.assertIn(finish(process).code, (143, -15))
        lab.must("cleanup")
        lab.holds_none()


@for_each_implementation
class Written(unittest.TestCase):
    """What a reader of the files sees."""

    @with_rows(NAMES)
    def check_hostile_name(self, lab, name):
        for made in (change, change_raw):
            with fleet().line([made(name=name.text, sfdc_account_id=name.text)]) as line:
                lab.must("allocate", BROKER_API_URL=line.url)
            lab.is_complete()
            self.assertEqual(lab.text("sandbox_name.txt"), name.text)
            self.assertEqual(lab.sourced("sandbox_env.sh", "STUDENT_TENANT", "SFDC_ACCOUNT_ID"), [name.text] * 2)

    def check_what_no_file_can_hold(self, lab):
        body = b'{"sandbox_id":"1","external_id":"0c5ae6c1-0000-4000-8000-00000000000a","name":"a\\u0000b\\ud800c"}'
        with fleet().line([lie(200, body)]) as line:
            lab.must("allocate", BROKER_API_URL=line.url)
        self.assertEqual(lab.text("sandbox_name.txt"), "a\ufffdb\ufffdc")
        lab.must("allocate")

    def check_a_reader_never_sees_half(self, lab):
        lab.must("allocate")
        names = [name for name in ALLOCATED_FILES]
        first = [lab.text(name) for name in names]
        process = lab.start("allocate")
        while process.poll() is None:
            self.assertEqual([lab.text(name) for name in names], first)
        self.assertEqual(finish(process).code, 0)

    def check_another_folder(self, lab):
        for name in ("a 'quoted' place", "-d"):
            place = lab.folder / name
            place.mkdir()
            lab.must("allocate", LAB_FILES_DIR=place.name)
            self.assertEqual(lab.names(), [place.name])
            self.assertEqual(sorted(os.listdir(place)), sorted(ALLOCATED_FILES))
            lab.must("cleanup", LAB_FILES_DIR=place.name)
            self.assertEqual(fleet().held(lab.owner), [])
            shutil.rmtree(place)

    def check_a_folder_that_cannot_be_written(self, lab):
        """A folder stands where a file should be: root may write everywhere, but not there."""
        (lab.folder / "sandbox_env.sh").mkdir()
        (lab.folder / "sandbox_env.sh/x").write_text("")
        run = lab.run("allocate")
        (lab.folder / "sandbox_env.sh/x").unlink()
        self.assertEqual(run.code, 1, run.output)
        lab.must("cleanup")
        lab.holds_none()


class Parity(unittest.TestCase):
    """The implementations write the same bytes."""

    def test_same_bytes(self):
        names = json.dumps("'\"$(x) \n ü")
        body = f'{{"sandbox_id":"7","external_id":"0c5ae6c1-0000-4000-8000-00000000000a","name":{names}}}'
        written = []
        for implementation in IMPLEMENTATIONS:
            lab = Lab(implementation, self)
            with fleet().line([lie(200, body.encode())]) as line:
                lab.must("allocate", BROKER_API_URL=line.url)
            written.append({name: (lab.text(name), (lab.folder / name).stat().st_mode) for name in lab.names()})
            lab.must("allocate")
        for other in written[1:]:
            self.assertEqual(other, written[0])
