"""Strict reading of CSV files into columns; nothing is invented, clipped or dropped."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from instances.formats import UNREAD, format_hint, named, separator_of
from lemix_opt.clock import nanoseconds
from lemix_opt.errors import FieldError, FileFormatError, excerpt, suggest
from lemix_opt.files import text_content
from lemix_opt.table import Table

MAX_BYTES = 2**28
"""Largest content accepted, after decompression."""
MAX_COLUMNS = 2**14
"""Most columns of a table, as many as spreadsheets have."""
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:[,.'\u2019 \u00a0\u202f]\d{3})+(?:[.,]\d+)?", re.ASCII)


@dataclass(frozen=True)
class Column:
    """What a column of a source must hold.

    Parameters
    ----------
    name : str
        Name in the header.
    kind : {"text", "float", "int", "stamp"}
        Type of its cells. Stamps are decimal numbers on one clock of the file; they become seconds
        since the earliest of them, subtracted exactly.
    unit : str, default ""
        Unit of its numbers.
    minimum : float, default 0
        Least value accepted.
    positive : bool, default False
        Whether the minimum itself is refused.
    missing : tuple of str, default ()
        The source's own codes for a missing value; they become NaN and are counted.
    optional : bool, default False
        Whether a file may lack the column; the table then lacks it too.
    """

    name: str
    kind: str
    unit: str = ""
    minimum: float = 0.0
    positive: bool = False
    missing: tuple[str, ...] = ()
    optional: bool = False


def read_csv(
    path: str | os.PathLike[str],
    name: str,
    columns: tuple[Column, ...],
    source: str,
    max_bytes: int = MAX_BYTES,
) -> Table:
    """Read a CSV file (gzip by its ending) whose header has exactly the given columns.

    Parameters
    ----------
    path : path-like
        The file.
    name : str
        Name of the dataset.
    columns : tuple of Column
        What the header and the cells must be.
    source : str
        Origin and licence, kept with the table.
    max_bytes : int, default 2**28
        Largest content accepted, after decompression.

    Raises
    ------
    FileFormatError
        Naming file, line and column, what was found and what was expected.
    """
    path = Path(path)
    text = text_content(path, "a CSV file", max_bytes)
    header, rows = csv_rows(text, path)
    _check_header(path, header, columns, text)
    columns = tuple(c for c in columns if c.name in header)
    cells: dict[str, list[str]] = {c.name: [] for c in columns}
    lines: list[int] = []
    for line, row in rows:
        lines.append(line)
        for key, cell in zip(header, row, strict=True):
            cells[key].append(cell)
    if not lines:
        raise FileFormatError("no rows", where=str(path), expected="at least one row")
    found = {
        c.name: _values(path, c, cells[c.name], lines, max_bytes)
        for c in columns
        if c.kind != "stamp"
    }
    stamped = [c for c in columns if c.kind == "stamp"]
    moments = {c.name: _moments(path, c, cells[c.name], lines) for c in stamped}
    origin_ns = min((m for column in moments.values() for m in column if m is not None), default=0)
    for name, column in moments.items():
        since = [math.nan if m is None else (m - origin_ns) / 10**9 for m in column]
        found[name] = np.array(since)
    return Table(
        name,
        found,
        {c.name: c.unit for c in columns if c.unit},
        source,
        {c.name: int(np.isnan(found[c.name]).sum()) for c in columns if c.missing},
        hashlib.sha256(path.read_bytes()).hexdigest(),
        origin_ns,
    )


def csv_rows(
    text: str, where: object, blank_lines: bool = False, separator: str = ","
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the header of a CSV text, and the rest of its rows, each with its line.

    Parameters
    ----------
    text : str
        The content.
    where : object
        Its file, for errors.
    blank_lines : bool, default False
        Whether blank lines are passed over instead of being rows without cells.
    separator : str, default ","
        What stands between cells.

    Raises
    ------
    FileFormatError
        For broken quotes, or, as rows are taken, one of another length than the header.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)

    def take() -> list[str] | None:
        try:
            return next(reader, None)
        except csv.Error as error:
            raise FileFormatError(
                f"{error}", where=f"{where}:{reader.line_num}", expected="comma-separated values"
            ) from None

    header = take() or []
    if len(header) > MAX_COLUMNS:
        raise FileFormatError(
            f"{len(header)} columns",
            where=f"{where}:{reader.line_num}",
            expected=f"at most {MAX_COLUMNS}",
            hint=format_hint(text) or "Keep the columns that are read",
        )

    def rest() -> Iterator[tuple[int, list[str]]]:
        while (row := take()) is not None:
            if not row and blank_lines:
                continue
            if len(row) != len(header):
                raise FileFormatError(
                    f"{len(row)} cells",
                    where=f"{where}:{reader.line_num}",
                    expected=f"{len(header)} as in the header",
                    hint=row_hint(row, header),
                )
            yield reader.line_num, row

    return header, rest()


def _other_form(header: list[str], columns: tuple[Column, ...], text: str) -> str | None:
    """Say what a file is that has other columns than those wanted, None where nothing is known."""
    if hint := separator_hint(text):
        return hint
    name = named(text)
    complete = {c.name for c in columns if not c.optional}.issubset(header)
    # A file of the very format may have one column too many.
    return f"It looks like {name}" if name and (not complete or UNREAD in name) else None


def separator_hint(text: str) -> str | None:
    """Say what separates the cells of a text's header, None where commas do."""
    first = text[: text.find("\n")] if "\n" in text else text
    if first.lower().startswith("sep="):
        return "Excel's line 'sep=' comes first; remove it, and separate cells by commas"
    separator = separator_of(first)
    return f"Cells are separated by {separator!r}; separate them by commas" if separator else None


def row_hint(row: list[str], header: list[str]) -> str | None:
    """Say why a row may have other cells than the header."""
    if not row:
        return "The line is blank"
    if len(row) > len(header) and any(
        DECIMAL_COMMA.fullmatch(f"{a},{b}") for a, b in pairwise(row)
    ):
        return "A decimal comma, or one within text that is not quoted, counts as a separator"
    return None


def line_of(path: str | os.PathLike[str], row: int, max_bytes: int = MAX_BYTES) -> int:
    """Return the line at which a row below the header ends, by reading the file again."""
    _, rows = csv_rows(text_content(path, "a CSV file", max_bytes), path)
    return next((line for number, (line, _) in enumerate(rows) if number == row), 0)


def number_hint(cell: str) -> str | None:
    """Say how a number was written that is none here: with a comma, or thousands apart."""
    if THOUSANDS.fullmatch(cell) and not DECIMAL_COMMA.fullmatch(cell):
        return "Thousands are set apart; write plain digits"
    if THOUSANDS.fullmatch(cell):
        return "A comma is no decimal point: write 0.5 for 0,5, and 1000 for 1,000"
    if DECIMAL_COMMA.fullmatch(cell):
        return "A comma is no decimal point: write 0.5 for 0,5"
    if not cell.isascii() and any(c.isdigit() for c in cell):
        return "Write digits 0 to 9"
    return None


def number(cell: str) -> float:
    """Return the number a cell spells in digits, point and exponent; NaN for anything else."""
    # Python also reads 1_000 and the digits of other scripts, which no program writes here.
    if "_" in cell or not cell.isascii():
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _check_header(path: Path, header: list[str], columns: tuple[Column, ...], text: str) -> None:
    wanted = [c.name for c in columns]
    if not header:
        raise FileFormatError("empty", where=f"{path}:1", expected=f"columns {', '.join(wanted)}")
    seen: set[str] = set()
    for name in header:
        if name not in wanted or name in seen:
            raise FileFormatError(
                f"unknown or repeated column {excerpt(name)!r}",
                where=f"{path}:1",
                hint=_other_form(header, columns, text) or suggest(name, wanted),
            )
        seen.add(name)
    for name in (c.name for c in columns if not c.optional):
        if name not in header:
            raise FileFormatError(
                f"missing column {name!r}", where=f"{path}:1", expected=", ".join(wanted)
            )


def _moments(path: Path, column: Column, cells: list[str], lines: list[int]) -> list[int | None]:
    """Return time stamps in nanoseconds, None where missing."""
    found: list[int | None] = []
    for cell, line in zip(cells, lines, strict=True):
        try:
            found.append(None if cell in column.missing else nanoseconds(cell, column.unit))
            if found[-1] is not None and found[-1] < column.minimum:
                raise FieldError("before the clock's zero")
        except FieldError:
            raise FileFormatError(
                f"value {cell[:40]!r}",
                where=f"{path}:{line}: {column.name}",
                expected=f"a number of at least {column.minimum:g}",
            ) from None
    return found


def _values(
    path: Path, column: Column, cells: list[str], lines: list[int], max_bytes: int
) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    if column.kind == "text":
        longest = max(range(len(cells)), key=lambda row: len(cells[row]))
        # An array gives every cell the room of the longest.
        if len(cells[longest]) * len(cells) > max_bytes:
            raise FileFormatError(
                f"text of {len(cells[longest])} characters",
                where=f"{path}:{lines[longest]}: {column.name}",
                expected=f"at most {max_bytes // len(cells)} in each of {len(cells)} rows",
            )
        return np.array(cells)
    values = np.empty(len(cells))
    for i, cell in enumerate(cells):
        if cell in column.missing:
            values[i] = math.nan
            continue
        value = number(cell)
        low = value <= column.minimum if column.positive else value < column.minimum
        # From 2^53 on neighbouring whole numbers are one float.
        whole = column.kind != "int" or (abs(value) < 2**53 and value == math.floor(value))
        if not math.isfinite(value) or low or not whole:
            kind = "a whole number below 2^53" if column.kind == "int" else "a number"
            bound = "more than" if column.positive else "at least"
            raise FileFormatError(
                f"value {cell[:40]!r}",
                where=f"{path}:{lines[i]}: {column.name}",
                expected=f"{kind} of {bound} {column.minimum:g}",
                hint=number_hint(cell),
            )
        values[i] = value
    if column.kind == "int" and not column.missing:
        return values.astype(np.int64)
    return values
