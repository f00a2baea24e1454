"""Arrays as JSON and back without nested lists: small lists take ten times what is in them."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

_PIECE = 2**16
"""Entries of an array that are Python numbers at one time; shorter text is decoded as it is."""
_COMMA, _ROW, _PLANE = b",;|"
"""What separates entries, and stands for the ends of rows and planes meanwhile."""
_NUMBERS = b"-+.0123456789eE,[]"
_QUOTE = re.compile(rb'"')


def as_json(array: npt.NDArray[Any]) -> msgspec.Raw:
    """Return an array as nested lists in JSON; infinity and NaN, which JSON lacks, become null."""
    return msgspec.Raw(_text(array))


def _text(array: npt.NDArray[Any]) -> bytes:
    if array.size <= _PIECE:
        return _small_text(array)
    inner = array.size // len(array)
    if inner > _PIECE:
        return b"[" + b",".join(_text(part) for part in array) + b"]"
    step = max(1, _PIECE // inner)
    # Without the brackets of a piece.
    pieces = (_small_text(array[at : at + step])[1:-1] for at in range(0, len(array), step))
    return b"[" + b",".join(pieces) + b"]"


def _small_text(array: npt.NDArray[Any]) -> bytes:
    if array.ndim != 2 or not array.size:
        return msgspec.json.encode(array.tolist())
    text = np.frombuffer(bytearray(msgspec.json.encode(array.reshape(-1).tolist())), np.uint8)
    commas = np.flatnonzero(text == _COMMA)
    text[commas[array.shape[1] - 1 :: array.shape[1]]] = _ROW
    return b"[" + text.tobytes().replace(b";", b"],[") + b"]"


def decoded(content: bytes | memoryview, depth: int = 3) -> Any:
    """Return JSON as `msgspec.json.decode` does, but large lists of numbers as arrays.

    Objects are taken apart down to `depth`, one value at a time, so that only one list of Python
    numbers exists at once. Lists that are no regular arrays of numbers stay lists.
    """
    if depth and bytes(content[:64]).lstrip()[:1] == b"{":
        parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        return {name: decoded(memoryview(part), depth - 1) for name, part in parts.items()}
    if len(content) > _PIECE and content[:2] == b"[[":
        array = _regular(bytes(content))
        if array is not None:
            return array
    plain = msgspec.json.decode(content)
    # numpy would give every entry of a list the room of its longest text.
    if isinstance(plain, list) and len(content) > _PIECE and not _QUOTE.search(content):
        array = _array(plain)
        return plain if array is None else array
    return plain


def _regular(text: bytes) -> npt.NDArray[Any] | None:
    """Return nested lists of equal lengths as an array; None for anything else, and for spaces."""
    deep = len(text[:4]) - len(text[:4].lstrip(b"["))
    if text.translate(None, _NUMBERS) or deep > 3 or not text.endswith(b"]" * deep):
        return None
    body = text[deep:-deep].replace(b"],[", b";").replace(b"];[", b"|")
    if b"[" in body or b"]" in body:
        return None
    marked = np.frombuffer(bytearray(body), np.uint8)
    at = np.flatnonzero((marked == _COMMA) | (marked == _ROW) | (marked == _PLANE))
    found, entries = marked[at], at.size + 1
    shape = [entries]
    wanted = np.full(at.size, _COMMA, dtype=np.uint8)
    for mark in (_ROW, _PLANE)[: deep - 1]:
        # The first end of a row or plane says how long all of them are.
        ends = np.flatnonzero(found >= mark)
        length = int(ends[0]) + 1 if ends.size else entries
        inner = shape[1:]
        if entries % length or length % math.prod(inner):
            return None
        wanted[length - 1 :: length] = mark
        shape = [entries // length, length // math.prod(inner), *inner]
    if not np.array_equal(found, wanted):
        return None
    marked[at] = _COMMA
    try:
        plain = msgspec.json.decode(b"[" + marked.tobytes() + b"]", type=list[int | float])
    except msgspec.MsgspecError:
        return None
    array = _array(plain)
    return None if array is None else array.reshape(shape)


def _array(plain: list[Any]) -> npt.NDArray[Any] | None:
    try:
        array = np.asarray(plain)
    except (ValueError, TypeError, OverflowError):
        return None
    return array if array.dtype.kind in "iuf" else None
