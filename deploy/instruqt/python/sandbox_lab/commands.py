"""The four commands, with their exit codes: 0 for success, 1 for failure."""

from __future__ import annotations

from sandbox_lab import broker, csp
from sandbox_lab.program import run


def allocate() -> int:
    """Claims a sandbox."""
    return run("allocate", broker.allocate)


def cleanup() -> int:
    """Releases it."""
    return run("cleanup", broker.cleanup)


def provision_user() -> int:
    """Creates a user in it."""
    return run("provision-user", csp.provision_user)


def remove_user() -> int:
    """Removes that user."""
    return run("remove-user", csp.remove_user)
