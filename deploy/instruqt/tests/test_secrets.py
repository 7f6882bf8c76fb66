"""No secret in what is printed, in the arguments of a process, or at an unintended address."""

import dataclasses
import json
import unittest
from urllib.parse import quote, quote_plus

from tests.proxy import DROP, HANG, PASS, REFLECTED, Proxy, answer, reflect, refusal
from tests.rig import fleet, for_each_implementation
from tests.test_users import Account, provider_of

RECORDER = """#!/bin/sh
printf '%s\\n' "$@" >>"$RECORD"
PATH=$RECORD_PATH exec curl "$@"
"""


def traced(lab):
    """The same lab, with shells that print each line they run."""
    implementation = lab.implementation
    if not implementation.is_python:
        lab.implementation = dataclasses.replace(implementation, words=(*implementation.words, "-x"))
    return lab


@for_each_implementation
class Secrets(unittest.TestCase):
    """All four commands over a faulty proxy, traced."""

    def check_nothing_is_printed(self, lab):
        traced(lab)
        token = lab.env["BROKER_API_TOKEN"]
        leak = answer(503, {"detail": {"code": "X", "message": f"you said {token}"}})
        output = ""
        with fleet().line([leak, DROP, answer(500, token.encode())]) as line:
            output += lab.must("allocate", BROKER_API_URL=line.url).output
        with provider_of(lab) as provider:
            Account(lab, provider)
            password = lab.env["INFOBLOX_PASSWORD"]
            reflected = answer(503, {"detail": {"code": "X", "message": f"you said {password}"}})
            with Proxy(provider.url, [reflected, DROP, leak]) as line:
                output += lab.must("provision-user", CSP_URL=line.url).output
            made = lab.text("user_password.txt")
            output += lab.must("provision-user", 1, CSP_URL=provider.url, INFOBLOX_EMAIL="nobody").output
            output += lab.must("remove-user", CSP_URL=provider.url).output
            sessions = list(provider.sessions)
        with fleet().line([leak, answer(401, {"detail": {"code": "UNAUTHORIZED", "message": token}})]) as line:
            output += lab.must("cleanup", 1, BROKER_API_URL=line.url).output
        output += lab.must("cleanup").output
        self.assertGreater(len(sessions), 3)
        for secret in (token, password, made, *sessions):
            self.assertNotIn(secret, output)
        self.assertIn("answer 503 X", output)

    def check_no_answer_tells_what_it_was_told(self, lab):
        """The new password goes to one call and the operator's to another: no answer of any call may print either."""
        output = ""
        with provider_of(lab) as provider:
            Account(lab, provider)
            for form in ("as it is", "in a URL", "beyond the cut"):
                with Proxy(provider.url, [PASS, reflect(503, form), PASS, PASS, PASS, reflect(400, form)]) as line:
                    output += lab.must("provision-user", 1, CSP_URL=line.url).output
                    self.assertEqual(line.left(), 0)
            made, operators = lab.text("user_password.txt"), lab.env["INFOBLOX_PASSWORD"]
            for leak in (json.dumps(operators), f"{'x' * 190}{operators}"):
                late = answer(400, {"detail": {"code": "BAD", "message": leak}})
                with Proxy(provider.url, [PASS, PASS, late]) as line:
                    output += lab.must("provision-user", 1, CSP_URL=line.url).output
            sessions = list(provider.sessions)
        for form in REFLECTED:
            with fleet().line([reflect(400, form)]) as line:
                output += lab.must("allocate", 1, BROKER_API_URL=line.url).output
        token = lab.env["BROKER_API_TOKEN"]
        with fleet().line([refusal(400, token)]) as line:
            output += lab.must("allocate", 1, BROKER_API_URL=line.url).output
        for secret in (token, made, operators, *sessions):
            for shape in (secret, json.dumps(secret)[1:-1], quote(secret), quote_plus(secret)):
                self.assertNotIn(shape[:10], output)
        self.assertIn("answer 503 REFLECTED;", output)
        with fleet().line([refusal(400, "INVALID_REQUEST")]) as line:
            output = lab.must("allocate", 1, BROKER_API_URL=line.url).output
        self.assertIn("answer 400 INVALID_REQUEST: made up", output)

    def check_nothing_in_arguments(self, lab):
        """A process that calls does not show the token to a user who lists the processes."""
        tools = lab.folder / "tools"
        tools.mkdir()
        (tools / "curl").write_text(RECORDER)
        (tools / "curl").chmod(0o755)
        record = {"PATH": f"{tools}:{lab.env['PATH']}", "RECORD_PATH": lab.env["PATH"], "RECORD": str(tools / "seen")}
        lab.must("allocate", **record)
        with provider_of(lab) as provider:
            Account(lab, provider)
            lab.must("provision-user", CSP_URL=provider.url, **record)
            secrets = [lab.env["BROKER_API_TOKEN"], lab.env["INFOBLOX_PASSWORD"], lab.text("user_password.txt")]
            secrets += provider.sessions
        seen = lab.text("tools/seen") or ""
        self.assertEqual("--max-time" in seen, not lab.implementation.is_python)
        for secret in secrets:
            self.assertNotIn(secret, seen)

    def check_a_redirect_is_not_followed(self, lab):
        with fleet().line() as elsewhere:
            with fleet().line([answer(307, Location=f"{elsewhere.url}/v1/allocate")]) as line:
                lab.must("allocate", 1, BROKER_API_URL=line.url)
            self.assertEqual(elsewhere.seen, [])

    def check_every_call_ends(self, lab):
        """No call of the provider waits for ever."""
        with provider_of(lab) as provider:
            account = Account(lab, provider)
            with Proxy(provider.url, forever=HANG) as line:
                run = lab.must("provision-user", 1, CSP_URL=line.url, LAB_TIMEOUT_SECONDS="1", LAB_WAIT_SECONDS="1")
            self.assertIn("no answer in time", run.output)
            self.assertEqual(provider.users(account.id), {})
