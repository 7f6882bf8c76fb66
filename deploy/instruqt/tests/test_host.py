"""What the host is like: how a command is started, who listens to it, and which proxy it gets."""

import contextlib
import dataclasses
import shutil
import unittest

from tests import behaviour
from tests.rig import LAB, Implementation, for_each_implementation

COMMANDS = ("allocate", "cleanup", "provision-user", "remove-user")
SHUT = ("2>/dev/full", ">&- 2>&- <&-")


class At(Implementation):
    """The scripts at another place."""

    def command(self, command):
        return [*self.words, f"./{command}"]


@contextlib.contextmanager
def used(lab, implementation):
    """Has the lab use another implementation for a while."""
    former, lab.implementation = lab.implementation, implementation
    try:
        yield
    finally:
        lab.implementation = former


def moved(lab):
    """Has the lab use the scripts that stand in its own folder, for a while."""
    return used(lab, At(**dataclasses.asdict(lab.implementation)))


@for_each_implementation
class Host(unittest.TestCase):
    """Each by all implementations that it can concern."""

    def check_nobody_listens(self, lab):
        implementation = lab.implementation
        for shut in SHUT:
            words = ("sh", "-c", f'exec "$@" {shut}', "sh", *implementation.words)
            with used(lab, dataclasses.replace(implementation, words=words)):
                lab.must("allocate")
                lab.is_complete()
                lab.must("cleanup")
                lab.holds_none()
                lab.must("allocate", 1, BROKER_API_TOKEN=None)

    def check_proxy(self, lab):
        nowhere = "http://127.0.0.1:9"
        lab.must("allocate", HTTP_PROXY=nowhere)
        lab.must("cleanup", 1, http_proxy=nowhere, **behaviour.HURRIED)
        lab.must("cleanup", 1, ALL_PROXY=nowhere, **behaviour.HURRIED)
        lab.must("cleanup", http_proxy=nowhere, no_proxy="127.0.0.1")

    def check_a_link(self, lab):
        """The folder `lib` is beside the script, and not beside a link to it."""
        if lab.implementation.is_python:
            return
        for command in COMMANDS:
            (lab.folder / f"{command} of it").symlink_to(LAB / command)
            (lab.folder / command).symlink_to(f"{command} of it")
        with moved(lab):
            lab.must("allocate")
            lab.holds_one()
            lab.must("provision-user", 1, INFOBLOX_EMAIL=None)
            lab.must("remove-user")
            lab.must("cleanup")
            lab.holds_none()

    def check_a_script_alone(self, lab):
        if lab.implementation.is_python:
            return
        with moved(lab):
            for command in COMMANDS:
                shutil.copy(LAB / command, lab.folder)
                run = lab.must(command, 1)
                self.assertEqual(run.output, f"{command}: there is no folder lib beside ./{command}\n")
        self.assertEqual(lab.names(), sorted(COMMANDS))
