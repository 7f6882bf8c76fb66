"""The judge finds every broken promise, and nothing in good answers."""

import unittest

from answers import Answer, AnswerLog

FULL = {"detail": {"code": "POOL_EXHAUSTED", "message": "…", "request_id": "r", "retry_after": 30}}
BUSY = {"detail": {"code": "NO_WORKERS", "message": "…", "request_id": "r", "retry_after": 1}}


def granted(owner, sandbox, status=201, prefix="", name="lab-1"):
    """A grant."""
    return Answer(owner, prefix, status, {"sandbox_id": sandbox, "name": name}, None, 0.01)


def refused(owner, status, body, retry_after):
    """A refusal."""
    return Answer(owner, "", status, body, retry_after, 0.01)


class JudgeTests(unittest.TestCase):
    """One test for each promise."""

    def check(self, *answers, finds=None):
        """Checks that exactly one violation with this text is found, or none."""
        log = AnswerLog()
        for answer in answers:
            log.add(answer)
        found = log.violations()
        self.assertEqual(len(found), 1 if finds else 0, found)
        if finds:
            self.assertIn(finds, found[0])

    def test_good_answers(self):
        self.check(granted("a", "1"), granted("a", "1", 200), granted("b", "2"), refused("c", 409, FULL, "30"))

    def test_a_lease_after_a_refusal_may_be_a_repeat(self):
        self.check(refused("a", 503, BUSY, "1"), granted("a", "1", 200))

    def test_two_owners_of_one_sandbox(self):
        self.check(granted("a", "1"), granted("b", "1"), finds="sandbox 1 was granted to a and to b")

    def test_another_sandbox_for_a_repeat(self):
        self.check(granted("a", "1"), granted("a", "2", 200), finds="for the repeat")

    def test_a_new_lease_for_a_repeat(self):
        self.check(granted("a", "1"), granted("a", "1", 201), finds="201 for the repeat")

    def test_an_old_lease_for_a_new_owner(self):
        self.check(granted("a", "1", 200), finds="200 for the first claim")

    def test_a_wrong_prefix(self):
        self.check(granted("a", "1", prefix="dns-"), finds="prefix dns-")

    def test_a_refused_repeat(self):
        self.check(granted("a", "1"), refused("a", 409, FULL, "30"), finds="although it has a sandbox")

    def test_a_refusal_without_advice(self):
        self.check(refused("a", 503, BUSY, None), finds="Retry-After None")

    def test_an_unexpected_answer(self):
        self.check(refused("a", 500, {"detail": {"code": "INTERNAL"}}, None), finds="unexpected answer 500")


if __name__ == "__main__":
    unittest.main()
