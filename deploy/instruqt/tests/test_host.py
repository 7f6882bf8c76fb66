"""What the host is like: how a command is started, who listens to it, and which proxy it is told of."""

import dataclasses
import shutil
import unittest

from tests import behaviour
from tests.rig import LAB, Implementation, for_each_implementation

SHUT = ("2>/dev/full", ">&- 2>&- <&-")


class At(Implementation):
    """The scripts at another place."""

    def command(self, command):
        return [*self.words, f"./{command}"]


@for_each_implementation
class Host(unittest.TestCase):
    """Each by all implementations that it can concern."""

    def check_nobody_listens(self, lab):
        implementation = lab.implementation
        for shut in SHUT:
            words = ("sh", "-c", f'exec "$@" {shut}', "sh", *implementation.words)
            lab.implementation = dataclasses.replace(implementation, words=words)
            lab.must("allocate")
            lab.is_complete()
            lab.must("cleanup")
            lab.holds_none()
            lab.must("allocate", 1, BROKER_API_TOKEN=None)
        lab.implementation = implementation

    def check_proxy(self, lab):
        nowhere = "http://127.0.0.1:9"
        lab.must("allocate", HTTP_PROXY=nowhere)
        lab.must("cleanup", 1, http_proxy=nowhere, **behaviour.HURRIED)
        lab.must("cleanup", 1, ALL_PROXY=nowhere, **behaviour.HURRIED)
        lab.must("cleanup", http_proxy=nowhere, no_proxy="127.0.0.1")

    def check_a_link(self, lab):
        """The folder `lib` is beside the script, and not beside a link to it."""
        implementation = lab.implementation
        if implementation.is_python:
            return
        lab.implementation = At(**dataclasses.asdict(implementation))
        for command in ("allocate", "cleanup", "provision-user", "remove-user"):
            (lab.folder / f"{command} of it").symlink_to(LAB / command)
            (lab.folder / command).symlink_to(f"{command} of it")
        lab.must("allocate")
        lab.holds_one()
        lab.must("provision-user", 1, INFOBLOX_EMAIL=None)
        lab.must("remove-user")
        lab.must("cleanup")
        lab.holds_none()
        lab.implementation = implementation

    def check_a_script_alone(self, lab):
        implementation = lab.implementation
        if implementation.is_python:
            return
        lab.implementation = At(**dataclasses.asdict(implementation))
        for command in ("allocate", "cleanup", "provision-user", "remove-user"):
            shutil.copy(LAB / command, lab.folder)
            run = lab.must(command, 1)
            self.assertEqual(run.output, f"{command}: there is no folder lib beside ./{command}\n")
        self.assertEqual(lab.names(), ["allocate", "cleanup", "provision-user", "remove-user"])
        lab.implementation = implementation
