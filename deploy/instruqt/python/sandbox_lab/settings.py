"""The environment, read once and checked before anything is done."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


class Failed(Exception):
    """The command cannot do what it was asked for; the text is for the lab's log and holds no secret."""


@dataclass(frozen=True)
class Settings:
    """How long, how often, and where."""

    wait_seconds: int
    """From the start to the last try."""
    timeout_seconds: int
    """For one whole call."""
    connect_seconds: int
    """For its connection alone."""
    backoff_ms: int
    """The first wait between two tries; each further one is twice as long."""
    backoff_max_ms: int
    """And none is longer than this."""
    retry_after_max_seconds: int
    """A `Retry-After` beyond this counts as this."""
    files: Path
    """The folder of all files."""

    @classmethod
    def from_env(cls) -> Settings:
        """Reads the variables that begin with LAB_. Fails on one that is no number, and on a missing folder."""
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
    """A variable that must have a value which can stand in a header."""
    text = os.environ.get(name, "")
    if not text:
        raise Failed(f"{name} is not set")
    return header_safe(name, text)


def header_safe(name: str, text: str) -> str:
    """The text, if it can stand in a header as it is: printable ASCII without blanks at its ends."""
    if text and not re.fullmatch(r"[!-~]([ -~]*[!-~])?", text):
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
    """Whether a text can be one part of a path of a URL, and nothing else."""
    return re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", text) is not None
