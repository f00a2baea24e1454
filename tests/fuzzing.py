"""What the fuzz tests of readers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lemix_opt import LemixError


def refusal(read: Callable[[], Any]) -> str | None:
    """Run a reader; return the message of its LemixError, or None when it read something."""
    try:
        read()
    except LemixError as error:
        return str(error)
    return None
