"""The four commands, with their exit codes: 0 for success, 1 for failure."""

from __future__ import annotations

from typing import Callable

from sandbox_lab import broker, csp
from sandbox_lab.files import Files
from sandbox_lab.retry import Session
from sandbox_lab.settings import Failed, Settings
from sandbox_lab.voice import say


def _run(name: str, command: Callable[[Session, Files], int]) -> int:
    try:
        settings = Settings.from_env()
        return command(Session(name, settings), Files(settings.files))
    except Failed as failure:
        say(name, str(failure))
        return 1
    except KeyboardInterrupt:
        return 130


def allocate() -> int:
    """Claims a sandbox."""
    return _run("allocate", broker.allocate)


def cleanup() -> int:
    """Releases it."""
    return _run("cleanup", broker.cleanup)


def provision_user() -> int:
    """Creates a user in it."""
    return _run("provision-user", csp.provision_user)


def remove_user() -> int:
    """Removes that user."""
    return _run("remove-user", csp.remove_user)
