"""Arrays as JSON and back, piece by piece: a list of Python numbers takes ten times their bytes."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

_PIECE = 2**16
"""Entries of an array that are Python numbers at one time."""
_QUOTE = re.compile(b'"')


def as_json(array: npt.NDArray[Any]) -> msgspec.Raw:
    """Return an array as nested lists in JSON; infinity and NaN, which JSON lacks, become null."""
    return msgspec.Raw(_text(array))


def _text(array: npt.NDArray[Any]) -> bytes:
    if array.size <= _PIECE:
        return msgspec.json.encode(array.tolist())
    inner = array.size // len(array)
    if inner > _PIECE:
        return b"[" + b",".join(_text(part) for part in array) + b"]"
    step = max(1, _PIECE // inner)
    # Without the brackets of a piece.
    pieces = (_text(array[at : at + step])[1:-1] for at in range(0, len(array), step))
    return b"[" + b",".join(pieces) + b"]"


def decoded(content: bytes | memoryview, depth: int = 3) -> Any:
    """Return JSON as `msgspec.json.decode` does, but large lists of numbers as arrays.

    Objects are taken apart down to `depth`, one value at a time, so that only one list of Python
    numbers exists at once. Lists that are no regular arrays of numbers stay lists.
    """
    if depth and bytes(content[:64]).lstrip()[:1] == b"{":
        parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        return {name: decoded(memoryview(part), depth - 1) for name, part in parts.items()}
    plain = msgspec.json.decode(content)
    # numpy would give every entry of a list the room of its longest text.
    if isinstance(plain, list) and len(content) > _PIECE and not _QUOTE.search(content):
        return _array(plain)
    return plain


def _array(plain: list[Any]) -> Any:
    try:
        array = np.asarray(plain)
    except (ValueError, TypeError, OverflowError):
        return plain
    return array if array.dtype.kind in "iuf" else plain
