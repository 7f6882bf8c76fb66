"""Runs a command and turns its outcome into an exit code: 0 for success, 1 for failure."""

from __future__ import annotations

from typing import Callable

from sandbox_lab.files import Files
from sandbox_lab.retry import Session
from sandbox_lab.settings import Failed, Settings
from sandbox_lab.voice import say


def run(name: str, command: Callable[[Session, Files], int]) -> int:
    """Runs a command, whose messages begin with `name`."""
    try:
        settings = Settings.from_env()
        return command(Session(name, settings), Files(settings.files))
    except Failed as failure:
        say(name, str(failure))
        return 1
    except KeyboardInterrupt:
        return 130
