"""Passwords that the provider accepts and an attacker cannot guess."""

from __future__ import annotations

import secrets
import string

PARTS = ((string.ascii_uppercase, 3), (string.ascii_lowercase, 5), (string.digits, 4), ("!@#$%&", 4))
"""Which characters, and how many of each."""


def new_password() -> str:
    """16 characters from the system's cryptographic source."""
    chosen = [secrets.choice(letters) for letters, count in PARTS for _ in range(count)]
    secrets.SystemRandom().shuffle(chosen)
    return "".join(chosen)
