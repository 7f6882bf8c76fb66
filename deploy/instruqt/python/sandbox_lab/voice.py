"""What a command prints, and what it must not."""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import unquote, unquote_plus


def say(name: str, text: str) -> None:
    """One line for the lab's log. A message that cannot be written changes no outcome."""
    # Python knows none if it was closed from the start; the number may be that of another file by now.
    if sys.stderr is None:
        return
    try:
        # Not through a buffer, which would be tried again at the end of the process and change its exit code.
        os.write(2, f"{name}: {text}\n".encode(errors="backslashreplace"))
    except OSError:
        pass


class Secrets:
    """All that the process knows and must not print."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        for name in ("BROKER_API_TOKEN", "INFOBLOX_PASSWORD"):
            for line in os.environ.get(name, "").splitlines():
                self.keep(line)

    def keep(self, secret: str) -> None:
        """From now on no answer that holds it is printed."""
        if printable(secret):
            self._known.add(printable(secret))

    def found_in(self, text: str) -> bool:
        """Whether a text holds a secret: as it is, or escaped for JSON or for a URL."""
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
