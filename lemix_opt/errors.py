"""Every error a user can meet, and the sentence it is told in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LemixError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what : str
        What is wrong, with the value that was found.
    where : str, optional
        File, line, field or index at which it was found.
    expected : str, optional
        What would have been accepted.
    hint : str, optional
        What the reader can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.hint = hint
        message = f"{where}: {what}" if where else what
        if expected:
            message += f"; expected {expected}"
        if hint:
            message += f". {hint}"
        super().__init__(message)


class FieldError(LemixError, ValueError):
    """A field of a data object has the wrong shape, range or type."""


class FileFormatError(LemixError, ValueError):
    """A file cannot be read as what it claims to be."""


class DatasetError(LemixError):
    """A dataset is missing, unreachable or not the one that was asked for."""


class UnknownNameError(LemixError, KeyError):
    """A name or keyword that nothing is registered under."""

    __str__ = LemixError.__str__


class InfeasibleError(LemixError):
    """An instance, a start schedule or a policy's nodes that cannot satisfy the rules."""


class UnsupportedError(LemixError):
    """A valid request that this part of the toolkit does not cover."""


class InternalError(LemixError):
    """A contradiction within this toolkit, which is a fault of its own and to be reported."""


class MissingExtraError(LemixError, ImportError):
    """An optional dependency is not installed."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name is nearest to `name`, and list them all."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names) if names else "none"
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Known: {listed}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown `kind` called `name`, naming the nearest known one."""
    return UnknownNameError(f"unknown {kind} {name!r}", hint=suggest(name, known))


def check_keywords(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UnknownNameError` for the first keyword that `owner` does not take."""
    known = tuple(known)
    for name in given:
        if name not in known:
            raise unknown(f"parameter of {owner}", name, known)
