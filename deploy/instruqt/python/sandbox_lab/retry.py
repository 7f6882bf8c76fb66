"""Repeats a call until there is a usable answer, and decides which answers allow a repeat."""

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
    """Whether an answer allows a repeat."""

    AGAIN = "again"
    FINAL = "final"


class Refused(Exception):
    """An answer that will not change, or no answer within the command's time."""

    def __init__(self, answer: Answer, code: str) -> None:
        super().__init__(code or answer.status)
        self.status = answer.status
        self.code = code


class Session:
    """The time of a command, and its output."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        """The name of the command."""
        self._settings = settings
        self._caller = Caller(settings.timeout_seconds, settings.connect_seconds)
        self._deadline = time.monotonic() + settings.wait_seconds
        self.secrets = Secrets()
        """Texts that no log line may contain."""

    def say(self, text: str) -> None:
        """One line for the lab's log."""
        say(self.name, text)

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
        # A call without a token carries a password. Checks all of the text, and not only the beginning: half a secret
        # is a secret, too.
        if not token or not message or self.secrets.found_in(message):
            return text
        return f"{text}: {message[:200]}"

    def _wait(self, answer: Answer, backoff_ms: int) -> tuple[float, int]:
        """This pause, and the base of the next: the answer's Retry-After, otherwise twice the last pause."""
        settings = self._settings
        if answer.retry_after_seconds is None:
            return _half_to_whole(backoff_ms), min(backoff_ms * 2, settings.backoff_max_ms)
        # Plus a small random time, so that callers with the same advice do not return together.
        seconds = min(answer.retry_after_seconds, settings.retry_after_max_seconds)
        return seconds * 1000 + _half_to_whole(settings.backoff_ms), backoff_ms


def _half_to_whole(span_ms: int) -> float:
    return span_ms / 2 + secrets.randbelow(65536) * (span_ms / 2) / 65536


def judge(answer: Answer, code: str, waits_for_pool: bool) -> Verdict:
    """The meaning of an answer with another status."""
    status = answer.status
    if status in (408, 425, 429) or status >= 500:
        return Verdict.AGAIN
    if status == 409:
        # A proxy may drop the header; the body has the value too.
        waiting_helps = answer.retry_after_seconds is not None or code == "POOL_EXHAUSTED"
        return Verdict.AGAIN if waits_for_pool and waiting_helps else Verdict.FINAL
    if status == 403:
        # A refusal of the broker is JSON. Any other answer comes from a proxy, which may let the next attempt through.
        try:
            answer.json()
        except ValueError:
            return Verdict.AGAIN
    return Verdict.FINAL


def _code(answer: Answer) -> str:
    code = _detail(answer, "code")
    # Any other answer is not from the broker.
    return code if re.fullmatch("[A-Z_]+", code) else ""


def _detail(answer: Answer, name: str) -> str:
    try:
        return answer.get(f"detail.{name}")
    except ValueError:
        return ""
