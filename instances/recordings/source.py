"""What the readers of recordings share: bounded JSON, hashes, and warnings that stay short."""

from __future__ import annotations

import hashlib
import os
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from lemix_opt.checks import whole
from lemix_opt.errors import FileFormatError
from lemix_opt.files import line_at, read_content

MAX_BYTES = 2**28
"""Largest content of one file that is read, after decompression."""
MAX_TEXT_BYTES = 2**26
"""The same for text that is read row by row, which takes up to about twenty times as much."""
MAX_OBJECTS = 2**21
"""Most JSON objects of one file; each takes up to about 400 bytes of memory."""
SHOWN = 5
"""Warnings of one kind that are written out."""

Source = str | os.PathLike[str]
T = TypeVar("T")


def hashes(paths: Sequence[Source]) -> dict[str, str]:
    """SHA-256 of files, by their names without folders."""
    found: dict[str, str] = {}
    for path in map(Path, paths):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Names of files need not be text.
        name = path.name.encode("utf-8", "replace").decode("utf-8")
        found[name if name not in found else f"{name} ({len(found)})"] = digest
    return found


def shortened(found: Sequence[str]) -> list[str]:
    """Return the first few of many warnings of one kind, and how many more there are."""
    more = len(found) - SHOWN
    return [*found[:SHOWN], *([f"… and {more} more like the last"] if more > 0 else [])]


def json_content(path: Source, expected: str, max_bytes: int, max_objects: int) -> bytes:
    """Return the bytes of a JSON file (gzip by its ending) that is not too large to decode.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged or too large, or holds more than `max_objects` objects.
    """
    content = read_content(path, expected, max_bytes)
    objects = content.count(b"{")
    if objects > whole("max_objects", max_objects, minimum=1):
        raise FileFormatError(
            f"up to {objects} JSON objects",
            where=str(path),
            expected=f"at most {max_objects}",
            hint="Raise max_objects if the file can be trusted: "
            f"`lemix import` with --set max_objects={objects}",
        )
    return content.removeprefix(BOM_UTF8)


def decoded(content: bytes, kind: type[T], path: Source, line: int = 1, hint: str = "") -> T:
    """Decode JSON into a struct; errors name file and line, or the path to the field.

    Parameters
    ----------
    content : bytes
        The JSON text.
    kind : type
        What it must be.
    path : path-like
        File it comes from.
    line : int, default 1
        Line of the file at which it begins.
    hint : str, default ""
        What to do if it is not JSON.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise FileFormatError(f"{error}", where=f"{path}:{line}", expected="the format") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        at = line - 1 + line_at(content, _byte(str(error), content))
        raise FileFormatError(
            f"not JSON ({error})", where=f"{path}:{at}", expected="JSON in UTF-8", hint=hint
        ) from None
    except RecursionError:
        raise FileFormatError(
            "nested too deeply", where=f"{path}:{line}", expected="flat JSON"
        ) from None


def _byte(message: str, content: bytes) -> int:
    """Return where msgspec stopped: its messages end in ``(byte 17)``, but for bad UTF-8."""
    _, _, place = message.rpartition("(byte ")
    digits = place.rstrip(")")
    if digits.isdecimal():
        return int(digits)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(content)
