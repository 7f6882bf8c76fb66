"""The scripts under the original names: each file alone, with Python's standard library."""

import json
import subprocess
import sys
import unittest
from dataclasses import dataclass

from tests import behaviour
from tests.provider import Provider
from tests.proxy import DROP, answer, change, refusal
from tests.rig import IMPLEMENTATIONS, LAB, Implementation, fleet, for_each_implementation, with_rows
from tests.test_cycle import walk
from tests.test_host import used

sys.path.insert(0, str(LAB / "python"))
import single_files  # noqa: E402

SCRIPTS = {"allocate": "instruqt_broker_allocation.py", "cleanup": "instruqt_broker_cleanup.py"}
VARIABLES = ("STUDENT_TENANT", "CSP_ACCOUNT_ID", "BROKER_SANDBOX_ID", "SFDC_ACCOUNT_ID", "SANDBOX_ID")
NOWHERE = "http://127.0.0.1:9/v1"
SHELL = next(each for each in IMPLEMENTATIONS if not each.is_python)

SETTER = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["SET_RECORD"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
sys.exit(int(os.environ.get("SET_CODE_" + os.path.basename(sys.argv[0])[:3], "0")))
"""
"""A stand-in for `agent` and `set-var`: records its arguments, and exits as SET_CODE_age or SET_CODE_set says."""


class Single(Implementation):
    """The file that lab authors copy. Neither the folder beside it nor installed packages can be imported."""

    def command(self, command):
        return [self.words[0], "-I", "-S", str(LAB / SCRIPTS[command])]


SINGLES = tuple(Single(f"single-{each.name}", each.words, True) for each in IMPLEMENTATIONS if each.is_python)


def singly(cases):
    """Makes a test of every method named `check_*` for every Python."""
    return for_each_implementation(cases, SINGLES)


@dataclass(frozen=True)
class Setters:
    """Which commands for variables a host has, and which of them fail."""

    name: str
    present: tuple
    failing: tuple = ()
    code: int = 0


SETTERS = (
    Setters("agent", ("agent",)),
    Setters("set-var", ("set-var",)),
    Setters("both", ("agent", "set-var")),
    Setters("one of both fails", ("agent", "set-var"), ("agent",)),
    Setters("all fail", ("agent", "set-var"), ("agent", "set-var"), 1),
    Setters("none", ()),
)


def with_setters(lab, present, failing=()):
    """Puts stand-ins on the PATH of a lab's commands; returns the environment for them."""
    tools = lab.folder.with_name(lab.folder.name + "-tools")
    tools.mkdir()
    lab.case.addCleanup(subprocess.run, ["rm", "-rf", str(tools)], check=True)
    for name in present:
        (tools / name).write_text(SETTER)
        (tools / name).chmod(0o755)
    codes = {f"SET_CODE_{name[:3]}": "1" for name in failing}
    return {"PATH": f"{tools}:{lab.env['PATH']}", "SET_RECORD": str(tools / "record"), **codes}


def recorded(env):
    """What the stand-ins were asked for: lists of words."""
    try:
        with open(env["SET_RECORD"], encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


@singly
class Original(unittest.TestCase):
    """Files, variables and the way back."""

    def check_cycle(self, lab):
        with fleet().line() as line:
            lab.must("allocate", BROKER_API_URL=f"{line.url}/v1")
            self.assertEqual([(seen.method, seen.path) for seen in line.seen], [("POST", "/v1/allocate")])
            headers = line.seen[0].headers
        self.assertEqual((headers["x-instruqt-sandbox-id"], headers["x-instruqt-track-id"]), (lab.owner, "a-lab"))
        self.assertNotIn("x-sandbox-name-prefix", headers)
        sandbox = lab.holds_one()
        self.assertEqual(lab.text("sandbox_id.txt"), sandbox)
        self.assertRegex(lab.text("external_id.txt"), r"\A[0-9a-f-]{36}\Z")
        names = ("sandbox_name.txt", "external_id.txt", "sandbox_id.txt", "sfdc_account_id.txt", "sandbox_id.txt")
        self.assertEqual(lab.sourced("sandbox_env.sh", *VARIABLES), [lab.text(name) for name in names])
        first = {name: lab.text(name) for name in lab.names()}
        lab.must("allocate")
        self.assertEqual({name: lab.text(name) for name in lab.names()}, first)
        for _ in range(2):
            lab.must("cleanup")
            lab.holds_none()
        lab.must("allocate")
        self.assertNotEqual(lab.holds_one(), sandbox)
        self.assertEqual(lab.text("sandbox_id.txt"), lab.text("subtenant_id.txt"))

    @with_rows(SETTERS)
    def check_variables(self, lab, setters):
        env = with_setters(lab, setters.present, setters.failing)
        name = "it's $(touch pwned) \"ü\""
        with fleet().line([change(name=name, sfdc_account_id=None)]) as line:
            run = lab.must("allocate", setters.code, BROKER_API_URL=line.url, **env)
        sandbox = lab.holds_one()
        values = {"STUDENT_TENANT": name, "CSP_ACCOUNT_ID": lab.text("external_id.txt")}
        # A variable without a value is not set.
        values.update(dict.fromkeys(("BROKER_SANDBOX_ID", "SANDBOX_ID"), sandbox))
        words = {"agent": ["agent", "variable", "set"], "set-var": ["set-var"]}
        pairs = list(values.items())[: 1 if setters.code else None]
        expected = [[*words[setter], *pair] for pair in pairs for setter in setters.present]
        self.assertEqual(recorded(env), expected, run.output)
        for setter in setters.failing:
            self.assertIn(f"cannot set STUDENT_TENANT with {' '.join(words[setter])}: exit code 1", run.output)
        self.assertIsNone(lab.text("pwned"))
        lab.must("cleanup")
        lab.holds_none()

    def check_faults(self, lab):
        faults = (answer(500), DROP, refusal(429, "RATE_LIMIT_EXCEEDED", Retry_After="0"), answer(403, behaviour.PAGE))
        with fleet().line(faults) as line:
            lab.must("allocate", BROKER_API_URL=line.url)
            self.assertEqual(line.left(), 0)
        lab.holds_one()
        with fleet().line(faults) as line:
            lab.must("cleanup", BROKER_API_URL=line.url)
            self.assertEqual(line.left(), 0)
        lab.holds_none()

    def check_no_broker(self, lab):
        for command in SCRIPTS:
            run = lab.must(command, 1, BROKER_API_URL=NOWHERE, **behaviour.HURRIED)
            self.assertIn("the server cannot be reached, or the connection was cut; gave up after 1 s", run.output)
        run = lab.must("allocate", 1, BROKER_API_URL=None)
        self.assertEqual(run.output, "instruqt_broker_allocation: BROKER_API_URL is not set\n")
        # The claim may have reached a broker, so clean-up has to ask.
        self.assertEqual(lab.names(), ["allocation_pending.txt"])

    def check_wrong_token(self, lab):
        lab.must("allocate")
        with fleet().line() as line:
            # After a claim of unknown outcome, clean-up would also ask for the sandbox.
            for command in reversed(SCRIPTS):
                run = lab.must(command, 1, BROKER_API_URL=line.url, BROKER_API_TOKEN="not-the-token")
                self.assertIn("answer 401 UNAUTHORIZED", run.output)
                self.assertNotIn("not-the-token", run.output)
            self.assertEqual(len(line.seen), len(SCRIPTS))
        lab.holds_one()
        lab.must("cleanup")
        lab.holds_none()

    def check_exhausted(self, lab):
        """The only sandbox with such a name is taken."""
        lab.must("allocate")
        lab.holds_one()
        wanted = {"SANDBOX_NAME_PREFIX": lab.text("sandbox_name.txt"), "INSTRUQT_PARTICIPANT_ID": f"{lab.owner}-next"}
        with fleet().line() as line:
            run = lab.must("allocate", 1, BROKER_API_URL=line.url, **wanted, **behaviour.HURRIED)
            self.assertEqual(line.seen[0].headers["x-sandbox-name-prefix"], wanted["SANDBOX_NAME_PREFIX"])
        self.assertIn("answer 409 POOL_EXHAUSTED", run.output)
        self.assertEqual(fleet().held(f"{lab.owner}-next"), [])

    def check_files_that_are_left(self, lab):
        """Whichever files are left, clean-up finds the sandbox."""
        for left in (("sandbox_id.txt",), ("sandbox_id.txt", "external_id.txt"), ("subtenant_id.txt",), ()):
            lab.must("allocate")
            lab.holds_one()
            for name in lab.names():
                if name not in left:
                    (lab.folder / name).unlink()
            lab.must("cleanup")
            lab.holds_none()
            for name in left:
                (lab.folder / name).unlink()
        (lab.folder / "sandbox_id.txt").write_text("../admin/sync")
        run = lab.must("cleanup", 1)
        self.assertIn("sandbox_id.txt holds no id of a sandbox", run.output)

    def check_with_the_other_commands(self, lab):
        """A lab may have the scripts of both names in one folder, and a user in the sandbox."""
        with used(lab, SHELL):
            lab.must("allocate")
        lab.must("cleanup")
        lab.holds_none()
        lab.must("allocate")
        account = lab.text("external_id.txt")
        for each in (implementation for implementation in IMPLEMENTATIONS if implementation.is_full):
            with Provider(lab.env["INFOBLOX_EMAIL"], lab.env["INFOBLOX_PASSWORD"]) as provider, used(lab, each):
                lab.must("provision-user", CSP_URL=provider.url)
                self.assertEqual(list(provider.users(account)), [lab.text("user_id.txt")])
                lab.must("remove-user", CSP_URL=provider.url)
                self.assertEqual(provider.users(account), {})
        with used(lab, SHELL):
            lab.must("cleanup")
        lab.holds_none()

    def check_test_allocation(self, lab):
        """As its two scripts: copied to a folder without the others."""
        for name in ("test_allocation.sh", *SCRIPTS.values()):
            (lab.folder / name).write_bytes((LAB / name).read_bytes())
        run = walk(lab, "sh", (), lab.folder)
        self.assertEqual(run.returncode, 0, run.stdout)
        shown = r"(?m)^sandbox_id\.txt:\n[0-9]+\nexternal_id\.txt:\n[0-9a-f-]{36}\nsandbox_name\.txt:\nlab"
        self.assertRegex(run.stdout, shown)
        self.assertTrue(run.stdout.endswith("test: ok\n"), run.stdout)
        run = walk(lab, "sh", (), lab.folder, BROKER_API_TOKEN="")
        self.assertEqual((run.returncode, run.stdout.split(";")[0]), (1, "test: set BROKER_API_TOKEN"))


class Generated(unittest.TestCase):
    """The files are what the package makes them."""

    def test_files_are_up_to_date(self):
        for name in single_files.COMMANDS:
            path = LAB / f"{name}.py"
            self.assertEqual(path.read_text(encoding="utf-8"), single_files.text(name), "run python/single_files.py")
            self.assertEqual(path.stat().st_mode & 0o777, 0o755)
