"""The environment, read once and checked before the first call."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


class Failed(Exception):
    """The command cannot succeed; the text is for the lab's log and contains no secret."""


@dataclass(frozen=True)
class Settings:
    """Timeouts, pauses, and the folder."""

    wait_seconds: int
    """The time from the start to the last attempt."""
    timeout_seconds: int
    """The timeout of a call."""
    connect_seconds: int
    """The timeout of its connection."""
    backoff_ms: int
    """The first pause between two attempts; each further one is twice as long."""
    backoff_max_ms: int
    """The longest pause."""
    retry_after_max_seconds: int
    """A longer `Retry-After` is shortened to this."""
    files: Path
    """The folder of all files."""

    @classmethod
    def from_env(cls) -> Settings:
        """Reads the variables that begin with LAB_. Fails for one that is not a number, and for a missing folder."""
        folder = os.environ.get("LAB_FILES_DIR") or "."
        if not os.path.isdir(folder):
            raise Failed(f"LAB_FILES_DIR: there is no folder {folder}")
        return cls(
            wait_seconds=_number("LAB_WAIT_SECONDS", 600),
            timeout_seconds=_number("LAB_TIMEOUT_SECONDS", 30, least=1),
            connect_seconds=_number("LAB_CONNECT_SECONDS", 5, least=1),
            backoff_ms=_number("LAB_BACKOFF_MS", 1000),
            backoff_max_ms=_number("LAB_BACKOFF_MAX_MS", 30000),
            retry_after_max_seconds=_number("LAB_RETRY_AFTER_MAX_SECONDS", 60),
            files=Path(folder),
        )


def _number(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Failed(f"{name} must be a whole number with at most 9 digits")
    if int(text) < least:
        raise Failed(f"{name} must be at least {least}")
    return int(text)


def required(name: str) -> str:
    """A required variable whose value must be valid in a header."""
    text = os.environ.get(name, "")
    if not text:
        raise Failed(f"{name} is not set")
    return header_safe(name, text)


def header_safe(name: str, text: str) -> str:
    """The text, if it is valid in a header: no control characters, and no blanks at its ends."""
    visible = "!-~\u00a0-\ud7ff\ue000-\U0010ffff"
    if text and not re.fullmatch(f"[{visible}]([ {visible}]*[{visible}])?", text):
        raise Failed(f"{name} holds characters that cannot be sent")
    return text


def server_url(name: str, text: str) -> str:
    """The text, if it is the URL of a server: scheme, host, perhaps a port and a path. It is not printed if not."""
    host = r"([A-Za-z0-9._-]+|\[[0-9A-Za-z:.%]+\])"
    parts = re.fullmatch(rf"https?://{host}(?::([^/]*))?(/[!-~]*)?", text)
    if not parts or re.search("[?#]", text):
        raise Failed(f"{name} is no URL of a server")
    port = "80" if parts[2] is None else parts[2]
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= 65535:
        raise Failed(f"{name} names no port from 1 to 65535")
    return text


def is_id(text: str) -> bool:
    """Whether a text is valid as one segment of a URL's path."""
    return re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", text) is not None
