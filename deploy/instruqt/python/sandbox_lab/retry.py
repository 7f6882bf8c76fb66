"""The same call until it has an answer, and which answers are worth another try."""

from __future__ import annotations

import re
import secrets
import time
from enum import Enum
from typing import Callable, Collection, TypeVar

from sandbox_lab.calls import Answer, Call, Caller
from sandbox_lab.settings import Settings
from sandbox_lab.voice import Secrets, printable, say

Read = TypeVar("Read")


class Verdict(Enum):
    """What an answer means for the next try."""

    AGAIN = "again"
    FINAL = "final"


class Refused(Exception):
    """An answer that will not change, or none within the time of the command."""

    def __init__(self, answer: Answer, code: str) -> None:
        super().__init__(code or answer.status)
        self.status = answer.status
        self.code = code


class Session:
    """The time that a command has, and its voice."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        self._caller = Caller(settings.timeout_seconds, settings.connect_seconds)
        self._deadline = time.monotonic() + settings.wait_seconds
        self.secrets = Secrets()
        """What no line of the log may hold."""

    def say(self, text: str) -> None:
        """One line for the lab's log."""
        say(self._name, text)

    def call(
        self,
        call: Call,
        accepted: Collection[int],
        reader: Callable[[Answer], Read],
        waits_for_pool: bool = False,
    ) -> Read:
        """Calls until the status is an accepted one and `reader` can read the answer (ValueError: it cannot).

        Fails with Refused after an answer that will not change, or when the time is over.
        """
        backoff_ms = self._settings.backoff_ms
        while True:
            answer = self._caller.call(call)
            verdict, code, problem = Verdict.AGAIN, "", answer.problem
            if answer.status in accepted:
                try:
                    return reader(answer)
                except ValueError:
                    problem = f"an answer that cannot be read ({answer.status})"
            elif answer.status:
                code = _code(answer)
                verdict = judge(answer, code, waits_for_pool)
                problem = self._describe(answer, code, call.token)
            if verdict is Verdict.FINAL:
                self.say(problem)
                raise Refused(answer, code)
            left_ms = (self._deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                self.say(f"{problem}; gave up after {self._settings.wait_seconds} s")
                raise Refused(answer, code)
            wait_ms, backoff_ms = self._wait(answer, backoff_ms)
            wait_ms = min(wait_ms, left_ms)
            self.say(f"{problem}; next try in {wait_ms / 1000:.1f} s")
            time.sleep(wait_ms / 1000)

    def _describe(self, answer: Answer, code: str, token: str) -> str:
        text = f"answer {answer.status}"
        if code and not self.secrets.found_in(code):
            text += f" {code}"
        message = printable(_detail(answer, "message"))
        # Without a token, a password was sent. And all of it is looked at, not the beginning alone: half a secret is
        # one, too.
        if not token or not message or self.secrets.found_in(message):
            return text
        return f"{text}: {message[:200]}"

    def _wait(self, answer: Answer, backoff_ms: int) -> tuple[float, int]:
        """This wait, and the base of the next: what the answer asks for, else twice the last one."""
        settings = self._settings
        if answer.retry_after_seconds is None:
            return _half_to_whole(backoff_ms), min(backoff_ms * 2, settings.backoff_max_ms)
        # A little more than that, and different for each caller with the same advice.
        seconds = min(answer.retry_after_seconds, settings.retry_after_max_seconds)
        return seconds * 1000 + _half_to_whole(settings.backoff_ms), backoff_ms


def _half_to_whole(span_ms: int) -> float:
    return span_ms / 2 + secrets.randbelow(65536) * (span_ms / 2) / 65536


def judge(answer: Answer, code: str, waits_for_pool: bool) -> Verdict:
    """What an answer that is not an accepted one means."""
    status = answer.status
    if status in (408, 425, 429) or status >= 500:
        return Verdict.AGAIN
    if status == 409:
        # The header may be lost on the way; the body says it too.
        waiting_helps = answer.retry_after_seconds is not None or code == "POOL_EXHAUSTED"
        return Verdict.AGAIN if waits_for_pool and waiting_helps else Verdict.FINAL
    if status == 403:
        # A broker that refuses says so in JSON. Anything else stands in front of it, and may let the next try through.
        try:
            answer.json()
        except ValueError:
            return Verdict.AGAIN
    return Verdict.FINAL


def _code(answer: Answer) -> str:
    code = _detail(answer, "code")
    # Any other is none of the broker's.
    return code if re.fullmatch("[A-Z_]+", code) else ""


def _detail(answer: Answer, name: str) -> str:
    try:
        return answer.get(f"detail.{name}")
    except ValueError:
        return ""
