"""What a Parquet file declares about itself, checked before a library allocates anything for it.

A few bytes of run-length encoding can stand for billions of rows, and the sizes in page headers are
believed by readers. This walks the footer and the page headers, both in Thrift's compact protocol
(apache/parquet-format, parquet.thrift).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lemix_opt.errors import FileFormatError

MAX_FOOTER_BYTES = 2**20
MAX_PAGES = 2**17
CELL_BYTES = 16
"""Memory of one decoded cell of text: the view of a string."""
_MAGIC = b"PAR1"
_MAX_DEPTH = 12
_PLAIN_CODEC = 0
_ENCODINGS = {0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 8: "RLE_DICTIONARY"}


def check_parquet(content: bytes, where: str, columns: Mapping[str, int], max_bytes: int) -> int:
    """Return the number of rows of an uncompressed flat Parquet file that is safe to decode.

    Parameters
    ----------
    content : bytes
        The whole file.
    where : str
        Its name, for errors.
    columns : mapping of str to int
        Names it must have, in this order, with the bytes of a decoded cell.
    max_bytes : int
        Largest table accepted, decoded.

    Raises
    ------
    FileFormatError
        If the file is damaged, has other columns, is compressed, or declares more than is there.
    """
    try:
        rows = _check(content, where, tuple(columns))
    except (_DamageError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(
            f"damaged Parquet ({error})", where=where, expected="a table written by this toolkit"
        ) from None
    if rows * sum(columns.values()) > max_bytes:
        raise FileFormatError(
            f"{rows} rows of {len(columns)} columns",
            where=where,
            expected=f"a table of at most {max_bytes} bytes",
            hint="Raise max_bytes if the file can be trusted",
        )
    return rows


class _DamageError(Exception):
    """Bytes that are no Thrift, or numbers that do not fit together."""


def _check(content: bytes, where: str, columns: tuple[str, ...]) -> int:
    if len(content) < 12 or content[:4] != _MAGIC or content[-4:] != _MAGIC:
        raise _DamageError("no PAR1 at both ends")
    size = int.from_bytes(content[-8:-4], "little")
    if size > min(MAX_FOOTER_BYTES, len(content) - 12):
        raise _DamageError(f"a footer of {size} bytes")
    footer = _Thrift(content, len(content) - 8 - size, len(content) - 8).struct()
    root, *leaves = footer[2]
    names = tuple(bytes(leaf[4]).decode("utf-8") for leaf in leaves)
    if names != columns or root.get(5) != len(leaves) or any(leaf.get(5) for leaf in leaves):
        raise FileFormatError(
            f"columns {', '.join(names)[:200]}", where=where, expected=", ".join(columns)
        )
    rows, pages = int(footer[3]), 0
    counted = [0] * len(columns)
    for group in footer.get(4, []):
        if len(group[1]) != len(columns):
            raise _DamageError(f"{len(group[1])} columns in a row group")
        for place, chunk in enumerate(group[1]):
            found, seen = _pages(content, chunk[3], MAX_PAGES - pages)
            counted[place] += found
            pages += seen
            if found != group[3]:
                raise _DamageError(f"{found} values in pages for {group[3]} rows")
    if rows < 0 or any(count != rows for count in counted):
        raise _DamageError(f"{counted} values for {rows} rows")
    return rows


def _pages(content: bytes, chunk: dict[int, Any], most: int) -> tuple[int, int]:
    """Return the values and the number of pages of one column chunk."""
    if chunk[4] != _PLAIN_CODEC:
        raise _DamageError("compressed pages")
    at = min(chunk[9], chunk.get(11, chunk[9]))
    end = at + chunk[7]
    if not 4 <= at <= end <= len(content):
        raise _DamageError("a column chunk outside the file")
    values = pages = 0
    while at < end:
        reader = _Thrift(content, at, end)
        header = reader.struct()
        at = reader.at + header[3]
        pages += 1
        if pages > most:
            raise _DamageError(f"more than {MAX_PAGES} pages")
        if header[2] != header[3] or header[3] < 0 or at > end:
            raise _DamageError(f"a page of {header[2]} bytes")
        # 0 and 3 are data pages of the two versions, 2 is a dictionary.
        data = header[{0: 5, 3: 8, 2: 7}[header[1]]]
        if data[1] < 0 or data[4 if header[1] == 3 else 2] not in _ENCODINGS:
            raise _DamageError(f"a page of {data[1]} values")
        if header[1] == 2:
            if data[1] > header[3]:
                raise _DamageError(f"a dictionary of {data[1]} values")
        else:
            values += data[1]
    return values, pages


class _Thrift:
    """Values of Thrift's compact protocol, between two places of the content."""

    def __init__(self, content: bytes, at: int, end: int) -> None:
        self.content, self.at, self.end = content, at, end

    def _byte(self) -> int:
        if self.at >= self.end:
            raise _DamageError("ends in the middle of a value")
        self.at += 1
        return self.content[self.at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _DamageError("a number of more than 64 bits")

    def _whole(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, size: int) -> memoryview:
        if size > self.end - self.at:
            raise _DamageError(f"a value of {size} bytes")
        self.at += size
        return memoryview(self.content)[self.at - size : self.at]

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a struct by number."""
        if depth > _MAX_DEPTH:
            raise _DamageError("structs nested too deeply")
        found: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._whole()
            kind = head & 0x0F
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._whole()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise _DamageError(f"a value of type {kind}")

    def _list(self, depth: int) -> list[Any]:
        if depth > _MAX_DEPTH:
            raise _DamageError("lists nested too deeply")
        head = self._byte()
        size = self._varint() if head >> 4 == 15 else head >> 4
        if size > self.end - self.at:
            raise _DamageError(f"a list of {size} values")
        return [self._value(head & 0x0F, depth + 1) for _ in range(size)]
