"""The answers that callers got to their claims, and what in them breaks a promise of the broker."""

import statistics
import threading
from dataclasses import dataclass

GRANTED = (200, 201)
# Targets of the predecessor's load tests.
P95_MAX_SECONDS = 0.3
P99_MAX_SECONDS = 0.5


@dataclass(frozen=True)
class Answer:
    """One answer to a claim. `retry_after` is the header as sent."""

    owner: str
    prefix: str
    status: int
    body: dict
    retry_after: str | None
    seconds: float

    @property
    def fault(self):
        """The code, the message and the advice of a refusal."""
        return self.body.get("detail", {})


class AnswerLog:
    """Collects answers of concurrent callers."""

    def __init__(self):
        self._lock = threading.Lock()
        self._answers = []

    def add(self, answer):
        """Notes an answer. The answers of one owner arrive in their order."""
        with self._lock:
            self._answers.append(answer)

    def leases(self):
        """The first lease of every owner that got one."""
        first = {}
        for answer in self._answers:
            if answer.status in GRANTED:
                first.setdefault(answer.owner, answer.body)
        return first

    def count(self, status, code=None):
        """Answers with this status and code."""
        return sum(each.status == status and each.fault.get("code") == code for each in self._answers)

    def violations(self):
        """Broken promises, as text."""
        found, leases, holders, is_delayed = [], {}, {}, set()
        for answer in self._answers:
            owner = answer.owner
            if answer.status not in GRANTED:
                found += [f"{owner}: {problem}" for problem in refusal_problems(answer, owner in leases)]
                is_delayed.add(owner)
                continue
            sandbox = answer.body["sandbox_id"]
            if holders.setdefault(sandbox, owner) != owner:
                found.append(f"sandbox {sandbox} was granted to {holders[sandbox]} and to {owner}")
            if not answer.body["name"].startswith(answer.prefix):
                found.append(f"{owner} asked for the prefix {answer.prefix} and got {answer.body['name']}")
            if leases.setdefault(owner, answer.body) != answer.body:
                found.append(f"{owner} got {leases[owner]} first, and {answer.body} for the repeat")
            # The repeat of a claim whose first answer was a time-out finds the lease that it made.
            is_first = leases[owner] is answer.body
            if answer.status != (201 if is_first else 200) and not (is_first and owner in is_delayed):
                found.append(f"{owner}: {answer.status} for the {'first claim' if is_first else 'repeat'}")
        return found

    def latencies(self):
        """Median, 95th and 99th percentile of all answers, in seconds."""
        cuts = statistics.quantiles([each.seconds for each in self._answers], n=100, method="inclusive")
        return cuts[49], cuts[94], cuts[98]


def refusal_problems(answer, has_lease):
    """What is wrong with a refusal."""
    code = answer.fault.get("code")
    if answer.status not in (409, 503, 504) or (answer.status == 409 and code != "POOL_EXHAUSTED"):
        yield f"unexpected answer {answer.status}: {answer.body}"
    elif answer.retry_after is None or answer.retry_after != str(answer.fault.get("retry_after")):
        yield f"{code} with Retry-After {answer.retry_after} and retry_after {answer.fault.get('retry_after')}"
    if has_lease and answer.status == 409:
        yield "refused although it has a sandbox"
