"""Runtime variables of Instruqt, which assignments show and later scripts read."""

from __future__ import annotations

import shutil
import subprocess
from typing import Mapping, Sequence

from sandbox_lab.retry import Session
from sandbox_lab.settings import Failed

SETTERS: Sequence[Sequence[str]] = (("agent", "variable", "set"), ("set-var",))
"""Instruqt's command, and the one that older images have."""
SET_MAX_SECONDS = 30
"""Neither of them does more than one call."""


def set_variables(session: Session, values: Mapping[str, str]) -> None:
    """Sets the variables that have a value with every setter on the PATH; without one, does nothing.

    Fails if no setter accepts a variable.
    """
    setters = [setter for setter in SETTERS if shutil.which(setter[0])]
    for name, value in values.items():
        if value and setters and not any([_set(session, setter, name, value) for setter in setters]):
            raise Failed(f"the sandbox is ready, but the variable {name} is not set")


def _set(session: Session, setter: Sequence[str], name: str, value: str) -> bool:
    try:
        run = subprocess.run(
            [*setter, name, value],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SET_MAX_SECONDS,
            check=False,
        )
        problem = f"exit code {run.returncode}" if run.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as failure:
        problem = type(failure).__name__
    if problem:
        session.say(f"cannot set {name} with {' '.join(setter)}: {problem}")
    return not problem
