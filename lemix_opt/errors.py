"""Every error a user can meet, and the sentence it is told in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

MOST_FOUND = 120
"""Characters of a name or value that a message quotes."""
_MOST_WHAT = 300
_MOST_SAID = 2000
_MOST_NAME = 60
_MOST_KNOWN = 64
_MOST_COMPARED = 1000


def printable(text: str) -> str:
    r"""Return text that a terminal shows as it is: nothing of a file moves, colours or hides.

    Control characters, line ends, marks of direction and halves of characters become escapes.

    Examples
    --------
    >>> print(printable("GPU 0" + chr(27)))
    GPU 0\x1b
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def excerpt(text: str, most: int = MOST_FOUND) -> str:
    """Return text, cut behind `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _said(text: str, most: int) -> str:
    """Return text on one line, printable, of at most `most` characters."""
    # Escapes lengthen what they stand for; the first cut keeps the work small.
    return excerpt(printable(excerpt(text, most)), most)


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

    Notes
    -----
    All of it becomes printable text of one line, and is cut where a file is quoted at length.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = _said(what, _MOST_WHAT)
        self.where = None if where is None else _place(where)
        self.expected = None if expected is None else _said(expected, _MOST_SAID)
        self.hint = None if hint is None else _said(hint, _MOST_SAID)
        message = f"{self.where}: {self.what}" if where else self.what
        if expected:
            message += f"; expected {self.expected}"
        if hint:
            message += f". {self.hint}"
        super().__init__(message)


def _place(where: str) -> str:
    """Return a place in one line; of one that is too long, such as a deep path, the end counts."""
    return printable(where if len(where) <= _MOST_SAID else f"…{where[-_MOST_SAID:]}")


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
    """Say which known name is nearest to `name`, and list them, up to a number."""
    names = sorted(printable(excerpt(entry, _MOST_NAME)) for entry in islice(known, _MOST_COMPARED))
    near = difflib.get_close_matches(name[:MOST_FOUND], names, n=1, cutoff=0.5)
    listed = ", ".join(names[:_MOST_KNOWN]) if names else "none"
    if len(names) > _MOST_KNOWN:
        listed += f" and {len(names) - _MOST_KNOWN} more"
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Known: {listed}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown `kind` called `name`, naming the nearest known one."""
    return UnknownNameError(f"unknown {kind} {excerpt(name)!r}", hint=suggest(name, known))


def check_keywords(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UnknownNameError` for the first keyword that `owner` does not take."""
    known = tuple(known)
    for name in given:
        if name not in known:
            raise unknown(f"parameter of {owner}", name, known)
