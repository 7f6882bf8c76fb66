"""Files that are written atomically, even if the process is killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping

from sandbox_lab.settings import Failed


USER_FILES = ("user_credentials.sh", "user_password.txt", "user_id.txt", "user_sandbox_id.txt", "user_email.txt")
"""The files of a user: the address last, because the user can be found by it."""


class Files:
    """The files of one lab, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, name: str) -> bool:
        """Whether the file exists."""
        return (self._folder / name).exists()

    def read(self, name: str) -> str:
        """The content without blanks around it; empty if there is no such file."""
        try:
            return (self._folder / name).read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return ""
        except OSError as problem:
            raise Failed(f"cannot read {name}: {problem.strerror}") from None

    def remove(self, *names: str) -> None:
        """Removes files; missing ones are ignored."""
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as problem:
                raise Failed(f"cannot remove {name}: {problem.strerror}") from None

    def forget_user(self) -> None:
        """Removes the files of a user."""
        self.remove(*USER_FILES)

    def put(self, name: str, text: str, mode: int = 0o644) -> None:
        """Replaces a file atomically: a reader sees the old or the new content."""
        temporary = self._compose(name, text, mode)
        try:
            os.replace(temporary, self._folder / name)
        except OSError as problem:
            temporary.unlink(missing_ok=True)
            raise Failed(f"cannot write {name}: {problem.strerror}") from None

    def put_new(self, name: str, text: str, mode: int) -> None:
        """As `put`, but an existing file stays unchanged, also one that another process creates at this moment."""
        temporary = self._compose(name, text, mode)
        try:
            os.link(temporary, self._folder / name)
        except FileExistsError:
            pass
        except OSError as problem:
            raise Failed(f"cannot write {name}: {problem.strerror}") from None
        finally:
            temporary.unlink(missing_ok=True)

    def _compose(self, name: str, text: str, mode: int) -> Path:
        temporary = self._folder / f".{name}.{os.getpid()}.tmp"
        try:
            temporary.unlink(missing_ok=True)
            # No other user may read it, not even for a moment.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
            os.chmod(temporary, mode)
        except OSError as problem:
            temporary.unlink(missing_ok=True)
            raise Failed(f"cannot write {name}: {problem.strerror}") from None
        return temporary


def exports(writer: str, values: Mapping[str, str]) -> str:
    """A file for a shell to source. Each value is one word of the shell, whatever is in it."""
    lines = [f"# Written by {writer}. Source it."]
    for name, value in values.items():
        quoted = value.replace("'", "'\\''")
        lines.append(f"export {name}='{quoted}'")
    return "\n".join(lines) + "\n"
