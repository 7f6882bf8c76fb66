"""allocate and cleanup over a proxy that fails: one sandbox for one participant, and none left behind."""

import unittest

from tests import behaviour
from tests.proxy import DROP, change
from tests.rig import Lab, finish, fleet, for_each_full_implementation, for_each_implementation, with_rows


@for_each_implementation
class Allocate(unittest.TestCase):
    """Every row, then a cleanup over a proxy without faults, after which nothing may be held."""

    @with_rows(behaviour.LINE + behaviour.ALLOCATE)
    def check_allocate(self, lab, row):
        with fleet().line(row.faults, row.forever) as line:
            run = lab.must("allocate", row.code, BROKER_API_URL=line.url, **row.env)
            self.assertEqual((line.left(), line.outlasted), (0, 0), run.output)
            if row.requests:
                self.assertEqual(len(line.seen), row.requests, run.output)
            keys = {(s.headers["idempotency-key"], s.headers["x-instruqt-sandbox-id"]) for s in line.seen}
            self.assertEqual(keys, {(lab.owner, lab.owner)})
        if row.code == 0:
            lab.holds_one()
            lab.is_complete()
        elif row.held:
            self.assertEqual(len(fleet().held(lab.owner)), row.held)
        else:
            lab.holds_none()
        lab.must("cleanup")
        lab.holds_none()

    def check_files_of_the_answer(self, lab):
        with fleet().line() as line:
            lab.must("allocate", BROKER_API_URL=f"{line.url}/v1/")
            seen = line.seen[0]
        self.assertEqual((seen.method, seen.path), ("POST", "/v1/allocate"))
        self.assertEqual(seen.headers["x-instruqt-track-id"], "a-lab")
        self.assertEqual(seen.headers["x-sandbox-name-prefix"], "lab")
        self.assertTrue(lab.text("sandbox_name.txt").startswith("lab"))

    def check_names_beyond_ascii(self, lab):
        """Participants and labs may have any UTF-8 name; it arrives as it was set."""
        lab.owner = lab.env["INSTRUQT_PARTICIPANT_ID"] = f"{lab.owner} Zoë 沙箱 😀"
        with fleet().line() as line:
            lab.must("allocate", BROKER_API_URL=line.url, INSTRUQT_TRACK_SLUG="Größe 1")
            headers = line.seen[0].headers
        sent = [headers[name].encode("latin-1").decode() for name in ("x-instruqt-sandbox-id", "x-instruqt-track-id")]
        self.assertEqual(sent, [lab.owner, "Größe 1"])
        lab.holds_one()
        lab.must("cleanup")
        lab.holds_none()

    def check_external_id_as_a_path(self, lab):
        uuid = "0c5ae6c1-0000-4000-8000-00000000000a"
        with fleet().line([change(external_id=f"identity/accounts/{uuid}")]) as line:
            lab.must("allocate", BROKER_API_URL=line.url)
        self.assertEqual((lab.text("external_id.txt"), lab.text("sandbox_id.txt")), (uuid, uuid))

    def check_again_is_the_same(self, lab):
        lab.must("allocate")
        first = {name: lab.text(name) for name in lab.names()}
        lab.must("allocate")
        self.assertEqual({name: lab.text(name) for name in lab.names()}, first)
        lab.holds_one()

    def check_two_at_once(self, lab):
        """Two runs for one participant in one folder, both with a first answer that is lost."""
        with fleet().line([DROP, DROP]) as line:
            runs = [finish(run) for run in [lab.start("allocate", BROKER_API_URL=line.url) for _ in range(2)]]
        self.assertEqual([run.code for run in runs], [0, 0], runs)
        lab.holds_one()
        lab.is_complete()
        runs = [finish(run) for run in [lab.start("cleanup") for _ in range(2)]]
        self.assertEqual([run.code for run in runs], [0, 0], runs)
        lab.holds_none()

    def check_two_hosts_at_once(self, lab):
        """Two hosts of one participant."""
        other = Lab(lab.implementation, self)
        other.owner = other.env["INSTRUQT_PARTICIPANT_ID"] = lab.owner
        runs = [finish(run) for run in [host.start("allocate") for host in (lab, other)]]
        self.assertEqual([run.code for run in runs], [0, 0], runs)
        self.assertEqual(lab.holds_one(), other.holds_one())

    @with_rows(behaviour.SETTINGS)
    def check_settings(self, lab, row):
        with fleet().line() as line:
            for command in ("allocate", "cleanup"):
                run = lab.must(command, row.code, **{"BROKER_API_URL": line.url, **row.env})
                self.assertRegex(run.output, rf"^{command}: ")
            self.assertEqual(line.seen, [])
        self.assertEqual(lab.names(), [])


@for_each_full_implementation
class Cleanup(unittest.TestCase):
    """Every row after a good allocate."""

    @with_rows(behaviour.LINE + behaviour.CLEANUP)
    def check_cleanup(self, lab, row):
        lab.must("allocate")
        sandbox = lab.holds_one()
        with fleet().line(row.faults, row.forever) as line:
            run = lab.must("cleanup", row.code, BROKER_API_URL=line.url, **row.env)
            self.assertEqual((line.left(), line.outlasted), (0, 0), run.output)
            if row.requests:
                self.assertEqual(len(line.seen), row.requests, run.output)
            self.assertEqual({s.path for s in line.seen}, {f"/v1/sandboxes/{sandbox}/mark-for-deletion"})
        if (row.code if row.held is None else row.held) == 0:
            lab.holds_none()
        else:
            lab.holds_one()
        if row.code or row.held:
            lab.must("cleanup")
            lab.holds_none()

    def check_again(self, lab):
        lab.must("allocate")
        for _ in range(3):
            lab.must("cleanup")
            lab.holds_none()

    def check_nothing_to_give_back(self, lab):
        lab.must("cleanup")
        self.assertEqual(lab.names(), [])

    def check_lost_files(self, lab):
        lab.must("allocate")
        lab.holds_one()
        for name in lab.names():
            (lab.folder / name).unlink()
        lab.must("cleanup")
        lab.holds_none()

    def check_empty_file(self, lab):
        lab.must("allocate")
        (lab.folder / "subtenant_id.txt").write_text(" \n")
        lab.must("cleanup")
        lab.holds_none()

    def check_lost_files_and_a_bad_line(self, lab):
        lab.must("allocate")
        (lab.folder / "subtenant_id.txt").unlink()
        for row in behaviour.LINE:
            if row.forever.act == "lose":
                with fleet().line(row.faults, row.forever) as line:
                    lab.must("cleanup", 1, BROKER_API_URL=line.url, **row.env)
        with fleet().line([DROP, DROP]) as line:
            lab.must("cleanup", BROKER_API_URL=line.url)
        lab.holds_none()

    def check_an_old_file_hides_no_new_claim(self, lab):
        """The files are of an earlier sandbox, and the answer to the new claim was lost for good."""
        lab.must("allocate")
        old = lab.holds_one()
        lab.must("cleanup")
        lab.holds_none()
        with fleet().line(forever=DROP) as line:
            lab.must("allocate", 1, BROKER_API_URL=line.url, **behaviour.HURRIED)
        self.assertEqual(len(fleet().held(lab.owner)), 1)
        self.assertEqual(lab.text("subtenant_id.txt"), old)
        lab.must("cleanup")
        lab.holds_none()

    def check_a_new_claim_after_cleanup(self, lab):
        lab.must("allocate")
        first = lab.holds_one()
        lab.must("cleanup")
        lab.holds_none()
        lab.must("allocate")
        self.assertNotEqual(lab.holds_one(), first)
        lab.is_complete()

    def check_another_participants_sandbox(self, lab):
        lab.must("allocate")
        lab.must("cleanup", 1, INSTRUQT_PARTICIPANT_ID=f"{lab.owner}-not")
        lab.holds_one()

    def check_an_id_that_leaves_its_place(self, lab):
        (lab.folder / "subtenant_id.txt").write_text("../admin/sync")
        with fleet().line() as line:
            lab.must("cleanup", 1, BROKER_API_URL=line.url)
            self.assertEqual(line.seen, [])
