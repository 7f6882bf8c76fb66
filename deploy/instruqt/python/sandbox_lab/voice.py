"""The output of a command, and the secrets that it must not contain."""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import unquote, unquote_plus


def say(name: str, text: str) -> None:
    """Writes one line to the lab's log. If that fails, the outcome does not change."""
    # Python has none if it was closed from the start; the number may belong to another file by now.
    if sys.stderr is None:
        return
    try:
        # Without a buffer, whose second attempt at the end of the process would change the exit code.
        os.write(2, f"{name}: {text}\n".encode(errors="backslashreplace"))
    except OSError:
        pass


class Secrets:
    """The secrets that the process knows and must not print."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        for name in ("BROKER_API_TOKEN", "INFOBLOX_PASSWORD"):
            for line in os.environ.get(name, "").splitlines():
                self.keep(line)

    def keep(self, secret: str) -> None:
        """From now on, no answer with this text is printed."""
        if printable(secret):
            self._known.add(printable(secret))

    def found_in(self, text: str) -> bool:
        """Whether a text contains a secret: plain, or escaped for JSON or for a URL."""
        once = _unescaped(text)
        forms = [form for said in (text, once, _unescaped(once)) for form in (said, unquote(said), unquote_plus(said))]
        return any(secret in printable(form) for secret in self._known for form in forms)


def printable(text: str) -> str:
    """The characters of a text that a log can show."""
    return "".join(character for character in text if " " <= character <= "~")


def _unescaped(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        if found[2]:
            return chr(int(found[2], 16))
        return "" if found[1] in "bfnrt" else found[1]

    return re.sub(r"\\(u([0-9A-Fa-f]{4})|.)", plain, text)
