"""test_allocation.sh, the walk that lab authors run, with every implementation."""

import subprocess
import unittest

from tests.rig import LAB, RUN_MAX_SECONDS, for_each_implementation
from tests.test_users import provider_of


@for_each_implementation
class Cycle(unittest.TestCase):
    """A whole lab."""

    def check_cycle(self, lab):
        words = list(lab.implementation.words) if lab.implementation.is_python else [str(LAB)]
        shell = "sh" if lab.implementation.is_python else " ".join(lab.implementation.words)
        with provider_of(lab) as provider:
            run = walk(lab, shell, words, CSP_URL=provider.url)
            self.assertEqual((provider.created, run.returncode), (1, 0), run.stdout)
        self.assertTrue(run.stdout.endswith("test: ok\n"), run.stdout)
        lab.holds_none()

    def check_cycle_says_when_it_is_broken(self, lab):
        run = walk(lab, "sh -x", list(lab.implementation.words[:1]) + ["-c", "exit 3"])
        self.assertNotIn(lab.env["BROKER_API_TOKEN"], run.stdout)
        self.assertNotEqual(run.returncode, 0)
        self.assertTrue(run.stdout.endswith("test: FAILED\n"), run.stdout)


def walk(lab, shell, words, place=LAB, **env):
    """Runs the walk of a folder as one participant."""
    return subprocess.run(
        [*shell.split(), str(place / "test_allocation.sh"), *words],
        cwd=lab.folder,
        env={**lab.env, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_MAX_SECONDS,
        check=False,
    )
