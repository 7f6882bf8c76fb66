"""provision-user and remove-user over a line that fails: one user, whose password is the one in the files."""

import re
import unittest
import uuid

from tests import behaviour
from tests.provider import Provider
from tests.proxy import DROP, LOSE, PASS, Proxy
from tests.rig import finish, for_each_full_implementation, for_each_implementation, with_rows

PASSWORD = re.compile(r"[A-Za-z0-9!@#$%&]{16}")
USER_FILES = ["user_credentials.sh", "user_email.txt", "user_id.txt", "user_password.txt", "user_sandbox_id.txt"]
CALLS_OF_PROVISION = 5
CALLS_OF_REMOVE = 3


class Account:
    """A lab whose allocate has run, and a provider that knows its account."""

    def __init__(self, lab, provider):
        self.lab = lab
        self.provider = provider
        self.id = str(uuid.uuid4())
        for name, text in (("sandbox_id.txt", self.id), ("sandbox_name.txt", "lab-1"), ("sfdc_account_id.txt", "")):
            (lab.folder / name).write_text(text)

    def has_one_user(self):
        """Checks that there is one user, and that the files say how to sign in."""
        lab, case = self.lab, self.lab.case
        users = self.provider.users(self.id)
        case.assertEqual(list(users), [lab.text("user_id.txt")])
        case.assertEqual(self.provider.created, 1)
        user = users[lab.text("user_id.txt")]
        case.assertEqual(user["email"], f"{lab.owner}@infoblox.lab")
        case.assertEqual(user["password"], lab.text("user_password.txt"))
        case.assertRegex(user["password"], rf"\A{PASSWORD.pattern}\Z")
        for letters, count in (("[A-Z]", 3), ("[a-z]", 5), ("[0-9]", 4), ("[!@#$%&]", 4)):
            case.assertEqual(len(re.findall(letters, user["password"])), count)
        names = ("CSP_USER_EMAIL", "CSP_USER_PASSWORD", "CSP_USER_ID", "SFDC_ACCOUNT_ID")
        values = [user["email"], user["password"], lab.text("user_id.txt"), lab.text("sfdc_account_id.txt")]
        case.assertEqual(lab.sourced("user_credentials.sh", *names), values)
        case.assertEqual([name for name in lab.names() if name.startswith(("user", "."))], USER_FILES)
        for name in ("user_password.txt", "user_credentials.sh"):
            case.assertEqual((lab.folder / name).stat().st_mode & 0o777, 0o600)


def provider_of(lab, **options):
    """A provider that lets this lab in."""
    return Provider(lab.env["INFOBLOX_EMAIL"], lab.env["INFOBLOX_PASSWORD"], **options)


@for_each_implementation
class Provision(unittest.TestCase):
    """Each row of the line on the call that makes the user, where a lost answer costs most."""

    @with_rows(behaviour.PROVISION)
    def check_provision(self, lab, row):
        with provider_of(lab) as provider:
            account = Account(lab, provider)
            with Proxy(provider.url, [PASS] * 3 + list(row.faults), row.forever) as line:
                lab.must("provision-user", row.code, CSP_URL=line.url, **row.env)
                self.assertEqual((line.left(), line.outlasted), (0, 0))
            if row.code:
                self.assertIsNone(lab.text("user_credentials.sh"))
                lab.must("provision-user", CSP_URL=provider.url)
            account.has_one_user()
            lab.must("remove-user", CSP_URL=provider.url)
            self.assertEqual(provider.users(account.id), {})

    def check_every_answer_is_lost_once(self, lab):
        with provider_of(lab, groups_late=2) as provider:
            account = Account(lab, provider)
            with Proxy(provider.url, [DROP, PASS] * (CALLS_OF_PROVISION + 3)) as line:
                lab.must("provision-user", CSP_URL=line.url)
            account.has_one_user()
            with Proxy(provider.url, [DROP, PASS] * CALLS_OF_REMOVE) as line:
                lab.must("remove-user", CSP_URL=line.url)
            self.assertEqual(provider.users(account.id), {})

    def check_again_keeps_user_and_password(self, lab):
        with provider_of(lab) as provider:
            account = Account(lab, provider)
            lab.must("provision-user", CSP_URL=provider.url)
            first = {name: lab.text(name) for name in lab.names()}
            lab.must("provision-user", CSP_URL=provider.url)
            self.assertEqual({name: lab.text(name) for name in lab.names()}, first)
            account.has_one_user()

    def check_two_at_once(self, lab):
        with provider_of(lab) as provider:
            account = Account(lab, provider)
            runs = [finish(run) for run in [lab.start("provision-user", CSP_URL=provider.url) for _ in range(2)]]
            self.assertEqual([run.code for run in runs], [0, 0], runs)
            account.has_one_user()

    def check_another_participant_gets_another_password(self, lab):
        with provider_of(lab) as provider:
            Account(lab, provider)
            lab.must("provision-user", CSP_URL=provider.url)
            first = lab.text("user_password.txt")
            lab.must("provision-user", CSP_URL=provider.url, INSTRUQT_PARTICIPANT_ID="another")
            self.assertNotEqual(lab.text("user_password.txt"), first)
            self.assertEqual(lab.text("user_email.txt"), "another@infoblox.lab")

    def check_password_that_is_replaced_meanwhile(self, lab):
        """Two that begin at once may each think that the other's file is of an earlier user."""
        put = []

        def replace(seen, _status, _body):
            if seen.path.endswith("/password") and not put:
                put.append(seen.path)
                (lab.folder / "user_password.txt").write_text("ABCabcde1234!@#$")

        with provider_of(lab) as provider:
            account = Account(lab, provider)
            with Proxy(provider.url, note=replace) as line:
                lab.must("provision-user", CSP_URL=line.url)
            self.assertEqual(lab.text("user_password.txt"), "ABCabcde1234!@#$")
            (lab.folder / "user_password.txt").chmod(0o600)
            account.has_one_user()

    def check_no_password_but_a_whole_one(self, lab):
        with provider_of(lab) as provider:
            account = Account(lab, provider)
            lab.must("provision-user", CSP_URL=provider.url)
            file = lab.folder / "user_password.txt"
            for text in ("", " \n"):
                file.write_text(text)
                lab.must("provision-user", CSP_URL=provider.url)
                account.has_one_user()
            with Proxy(provider.url) as line:
                for text in ("Short123!", "with a blank 1234", "two\nlines of it, 1"):
                    file.write_text(text)
                    lab.must("provision-user", 1, CSP_URL=line.url)
                file.unlink()
                # Root may read everything, but not this.
                file.mkdir()
                run = lab.must("provision-user", 1, CSP_URL=line.url)
                self.assertIn("cannot read user_password.txt", run.output)
                self.assertEqual((line.seen, list(file.iterdir())), ([], []))

    def check_sfdc_id(self, lab):
        for text in ("001SAND'$(x)", None):
            with provider_of(lab) as provider:
                account = Account(lab, provider)
                (lab.folder / "sfdc_account_id.txt").write_text(text or "")
                lab.must("provision-user", CSP_URL=provider.url)
                account.has_one_user()
                if text is None:
                    (lab.folder / "sfdc_account_id.txt").unlink()
                    lab.must("provision-user", CSP_URL=provider.url)

    def check_what_is_refused(self, lab):
        with provider_of(lab) as provider:
            with Proxy(provider.url) as line:
                lab.must("provision-user", 1, CSP_URL=line.url)
                Account(lab, provider)
                for name, value in (
                    ("INFOBLOX_EMAIL", None),
                    ("INFOBLOX_PASSWORD", None),
                    ("INFOBLOX_PASSWORD", "a\nb"),
                    ("INSTRUQT_PARTICIPANT_ID", None),
                    ("INSTRUQT_PARTICIPANT_ID", 'a"b'),
                    ("USER_DOMAIN", "a b"),
                    ("CSP_URL", "http://127.0.0.1:9/a b"),
                    ("CSP_URL", "127.0.0.1:99999"),
                ):
                    run = lab.must("provision-user", 1, **{"CSP_URL": line.url, name: value})
                    self.assertNotIn("gave up", run.output)
                (lab.folder / "sandbox_name.txt").unlink()
                lab.must("provision-user", 1, CSP_URL=line.url)
                self.assertEqual(line.seen, [])
            wrong = lab.must("remove-user", code=0, CSP_URL=provider.url, INFOBLOX_PASSWORD="wrong")
            self.assertNotIn("answer", wrong.output)
            (lab.folder / "sandbox_name.txt").write_text("x")
            run = lab.must("provision-user", 1, CSP_URL=provider.url, INFOBLOX_PASSWORD="wrong-one")
            self.assertIn("answer 401", run.output)
            self.assertNotIn("wrong-one", run.output)


@for_each_full_implementation
class Remove(unittest.TestCase):
    """Each row of the line on the call that deletes."""

    @with_rows(behaviour.REMOVE)
    def check_remove(self, lab, row):
        with provider_of(lab) as provider:
            account = Account(lab, provider)
            lab.must("provision-user", CSP_URL=provider.url)
            with Proxy(provider.url, [PASS] * 2 + list(row.faults), row.forever) as line:
                lab.must("remove-user", row.code, CSP_URL=line.url, **row.env)
                self.assertEqual((line.left(), line.outlasted), (0, 0))
            lab.must("remove-user", CSP_URL=provider.url)
            self.assertEqual(provider.users(account.id), {})
            lab.must("remove-user", CSP_URL=provider.url)

    def check_nothing_to_remove(self, lab):
        with provider_of(lab) as provider, Proxy(provider.url) as line:
            lab.must("remove-user", CSP_URL=line.url)
            Account(lab, provider)
            lab.must("remove-user", CSP_URL=line.url)
            self.assertEqual(line.seen, [])
            (lab.folder / "user_email.txt").write_text(f"{lab.owner}@infoblox.lab")
            lab.must("remove-user", CSP_URL=line.url)
            self.assertIn("_filter=email%3D%3D%22", line.seen[-1].path)

    def check_user_whose_id_was_never_written(self, lab):
        """The answer to making the user was lost for good, and so is the file."""
        with provider_of(lab) as provider:
            account = Account(lab, provider)
            with Proxy(provider.url, [PASS] * 3 + [DROP], LOSE) as line:
                lab.must("provision-user", 1, CSP_URL=line.url, **behaviour.HURRIED)
            self.assertEqual((len(provider.users(account.id)), lab.text("user_id.txt")), (1, None))
            lab.must("remove-user", CSP_URL=provider.url)
            self.assertEqual(provider.users(account.id), {})

    def check_files_of_another_sandboxs_user(self, lab):
        """The folder names a user of an earlier sandbox, and the answer to making this one's was lost for good."""
        with provider_of(lab) as provider:
            Account(lab, provider)
            lab.must("provision-user", CSP_URL=provider.url)
            earlier = {name: lab.text(name) for name in USER_FILES}
            account = Account(lab, provider)
            with Proxy(provider.url, [PASS] * 3 + [DROP], LOSE) as line:
                lab.must("provision-user", 1, CSP_URL=line.url, **behaviour.HURRIED)
            self.assertNotEqual(lab.text("user_password.txt"), earlier["user_password.txt"])
            self.assertEqual(len(provider.users(account.id)), 1)
            for name, text in earlier.items():
                (lab.folder / name).write_text(text)
            lab.must("remove-user", CSP_URL=provider.url)
            self.assertEqual(provider.users(account.id), {})
            self.assertEqual([name for name in lab.names() if name.startswith("user")], [])
            (lab.folder / "user_id.txt").write_text(earlier["user_id.txt"])
            (lab.folder / "user_sandbox_id.txt").write_text(earlier["user_sandbox_id.txt"])
            lab.must("remove-user", 1, CSP_URL=provider.url)

    def check_a_user_goes_with_its_sandbox(self, lab):
        """Of the commands of the broker only those that change the sandbox take the user's files away."""
        with provider_of(lab) as provider:
            for _ in range(2):
                lab.must("allocate")
                lab.must("provision-user", CSP_URL=provider.url)
                made = {name: lab.text(name) for name in USER_FILES}
                lab.must("allocate")
                self.assertEqual({name: lab.text(name) for name in USER_FILES}, made)
                lab.must("cleanup")
                self.assertEqual([name for name in lab.names() if name.startswith("user")], [])
            for name, text in made.items():
                (lab.folder / name).write_text(text)
            lab.must("allocate")
            lab.is_complete()
