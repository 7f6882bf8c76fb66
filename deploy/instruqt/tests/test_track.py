"""The skeleton of a track, run as Instruqt does, with a stand-in for `agent`."""

import re
import subprocess
import unittest

from tests.rig import LAB, RUN_MAX_SECONDS, fleet
from tests.test_original import recorded, singly, with_setters


@singly
class Track(unittest.TestCase):
    """On a host that has only what the set-up downloads."""

    def check_track(self, lab):
        env = with_setters(lab, ("agent",))
        place = lab.folder / "lab"
        track = LAB / "track"
        (host,) = re.findall(r"(?m)^- name: (\w+)$", (track / "config.yml").read_text().split("secrets:")[0])
        env.update(LAB_FILES_DIR=str(place), LAB_SCRIPTS_URL=f"file://{LAB}")
        self.script(lab, track / f"track_scripts/cleanup-{host}", 0, env)
        self.script(lab, track / f"track_scripts/setup-{host}", 1, {**env, "BROKER_API_TOKEN": ""})
        self.script(lab, track / f"track_scripts/setup-{host}", 0, env)
        self.assertEqual(fleet().held(lab.owner), [(place / "sandbox_id.txt").read_text()])
        variables = {words[3] for words in recorded(env)}
        assignment = (track / "01-your-sandbox/assignment.md").read_text()
        shown = re.findall(r'\[\[ Instruqt-Var key="(\w+)" hostname="(\w+)" \]\]', assignment)
        self.assertTrue(shown)
        self.assertLessEqual(set(shown), {(name, host) for name in variables})
        self.assertEqual(re.findall(r"(?m)^  hostname: (\w+)$", assignment), [host])
        self.script(lab, track / f"track_scripts/cleanup-{host}", 0, env)
        lab.holds_none()

    def script(self, lab, path, code, env):
        """Runs a script of the track as Instruqt does."""
        run = subprocess.run(
            [str(path)],
            env={**lab.env, **env},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_MAX_SECONDS,
            check=False,
        )
        self.assertEqual(run.returncode, code, run.stdout)
        self.assertNotIn(lab.env["BROKER_API_TOKEN"], run.stdout)
