"""Timelines in plain CSV, with a map of columns given by the caller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from instances.csv_table import DECIMAL_COMMA, csv_rows, number, number_hint, separator_hint
from instances.formats import format_hint
from instances.recordings.clocks import is_stamp, odd_steps, read_stamps, zone_named
from instances.recordings.source import MAX_TEXT_BYTES, Source, hashes, shortened
from lemix_opt.checks import FloatArray, choice
from lemix_opt.clock import UNITS_NS, exact_decimal, seconds_between
from lemix_opt.errors import FieldError, FileFormatError, excerpt, suggest
from lemix_opt.files import text_content
from lemix_opt.recording import (
    FLOAT,
    INT,
    LAYOUTS,
    TEXT,
    TRUTHS,
    UNKNOWN,
    Provenance,
    Recording,
    table,
)

_LONGEST_HEADER = 2**20
DURATION = "duration_s"
"""Stands in the map for ``end_s`` where a file has lengths instead of ends."""
_NEEDED = {
    "spans": ("start_s", "end_s"),
    "requests": ("queued_s",),
    "samples": ("time_s", "value"),
}


def read_timeline(
    path: Source,
    columns: Mapping[str, str],
    kind: str = "spans",
    time_unit: str = "s",
    zone: str = "",
    truth: str = "recorded",
    source: str = "a timeline in CSV",
    decimal: str = ".",
    max_bytes: int = MAX_TEXT_BYTES,
) -> Recording:
    """Read spans, requests or samples from a CSV file with a header.

    Cells may also be separated by semicolons or tabs, as Excel writes them: what stands between the
    names that the map asks for. A line ``sep=;`` above the header is passed over. Times are
    subtracted as the decimals they spell before anything becomes a float.

    Parameters
    ----------
    path : path-like
        The file; columns of it that the map does not name are passed over.
    columns : mapping of str to str
        Column of the file by column of `kind`, such as ``{"start_s": "begin", "end_s": "finish"}``;
        ``duration_s`` may stand for ``end_s``. An empty cell is unknown; starts, ends, times and
        values must be known.
    kind : {"spans", "requests", "samples"}, default "spans"
        Which table the rows make.
    time_unit : {"s", "ms", "us", "ns", "date"}, default "s"
        What times are counted in; ``"date"`` for dates with times of day.
    zone : str, default ""
        IANA name of the zone of dates without an offset.
    truth : {"recorded", "profile", "synthetic"}, default "recorded"
        Where the times come from.
    source : str
        What was run, in words.
    decimal : {".", ","}, default "."
        What stands before the decimals of numbers.
    max_bytes : int, default 2**26
        Largest content, decompressed.

    Raises
    ------
    FileFormatError
        Naming file, line and column.
    FieldError
        If the map does not fit the kind.
    """
    choice("kind", kind, tuple(LAYOUTS))
    choice("time_unit", time_unit, (*UNITS_NS, "date"))
    choice("truth", truth, TRUTHS)
    if zone_named(zone) is not None and time_unit != "date":
        raise FieldError(f"{zone!r}", where="zone", expected="time_unit='date' with it")
    choice("decimal", decimal, (".", ","))
    _check_map(columns, kind, time_unit)
    cells, lines = _cells(path, list(dict.fromkeys(columns.values())), max_bytes)
    layout = LAYOUTS[kind]
    if decimal == ",":
        numbers = [file for name, file in columns.items() if layout.get(name, FLOAT) == FLOAT]
        _point(path, list(dict.fromkeys(numbers)), cells, lines)
    times = [n for n in columns if n.endswith("_s") and n != DURATION]
    made: dict[str, Any] = {
        name: _typed(path, file, cells[file], lines, layout[name], name in _NEEDED[kind])
        for name, file in columns.items()
        if name not in times and name != DURATION
    }
    stamped = {n: columns[n] for n in (*times, DURATION) if n in columns}
    seconds, clock = _times(path, stamped, cells, lines, time_unit, zone, kind)
    made |= seconds
    said: list[str] = []
    first = next(n for n in _NEEDED[kind] if n in made)
    said += odd_steps(made[first], lines, columns[first], gaps=kind == "samples")
    if kind == "spans":
        made, more = _forward_only(made, lines)
        said += more
    provenance = Provenance(truth, source, clock, inputs=hashes([path]), warnings=tuple(said))
    return Recording(provenance, **{kind: table(kind, made)})


def _check_map(columns: Mapping[str, str], kind: str, time_unit: str) -> None:
    known = (*LAYOUTS[kind], *([DURATION] if kind == "spans" else []))
    if not isinstance(columns, Mapping):
        raise FieldError(f"{columns!r}"[:60], where="columns", expected="a map of columns")
    for name, file in columns.items():
        if name not in known:
            raise FieldError(f"unknown column {name!r}", where="columns", hint=suggest(name, known))
        if not isinstance(file, str):
            raise FieldError(f"{file!r}", where=f"columns.{name}", expected="a column of the file")
    if DURATION in columns and ("end_s" in columns or time_unit == "date"):
        raise FieldError(
            DURATION, where="columns", expected="'end_s' or 'duration_s', and no dates with it"
        )
    for name in _NEEDED[kind]:
        if name not in columns and not (name == "end_s" and DURATION in columns):
            raise FieldError(
                f"no column for {name!r}", where="columns", expected=", ".join(_NEEDED[kind])
            )


def _cells(
    path: Source, wanted: list[str], max_bytes: int
) -> tuple[dict[str, list[str]], list[int]]:
    """Return the cells of the wanted columns, and the line of every row."""
    text = text_content(path, "a CSV file", max_bytes)
    at, separator, body = _separated(text, wanted)
    found, rows = csv_rows(body, path, blank_lines=True, separator=separator)
    header = [name.strip() for name in found]
    for name in wanted:
        if header.count(name) != 1:
            raise FileFormatError(
                f"{header.count(name)} columns {name!r}",
                where=f"{path}:{at}",
                expected="one",
                hint=_header_hint(name, header, text),
            )
    places = [header.index(name) for name in wanted]
    cells: dict[str, list[str]] = {name: [] for name in wanted}
    lines: list[int] = []
    for line, row in rows:
        lines.append(line + at - 1)
        for name, place in zip(wanted, places, strict=True):
            cells[name].append(row[place].strip())
    if not lines:
        raise FileFormatError("no rows", where=str(path), expected="at least one row")
    return cells, lines


def _separated(text: str, wanted: list[str]) -> tuple[int, str, str]:
    """Return the line of the header, what separates cells, and the text from the header on."""
    first, _, rest = text.partition("\n")
    if (said := first.strip().strip('"').lower()).startswith("sep="):
        # Stripping takes a tab away.
        return 2, said[4:5] or "\t", rest
    if len(first) < _LONGEST_HEADER:
        for separator in (",", ";", "\t", "|"):
            cells = {cell.strip().strip('"') for cell in first.split(separator)}
            if cells.issuperset(wanted):
                return 1, separator, text
    return 1, ",", text


def _header_hint(name: str, header: list[str], text: str) -> str:
    near = suggest(name, dict.fromkeys(header))
    other = separator_hint(text) or format_hint(text)
    return f"{other}. {near}" if other else near


def _point(path: Source, files: list[str], cells: dict[str, list[str]], lines: list[int]) -> None:
    """Put a point for the decimal comma of numbers; dates have none."""
    for file in files:
        for row, cell in enumerate(cells[file]):
            if "." in cell or cell.count(",") > 1:
                raise FileFormatError(
                    f"value {excerpt(cell, 40)!r}",
                    where=f"{path}:{lines[row]}: {file}",
                    expected="a number with a decimal comma and no other marks",
                )
        cells[file] = [cell.replace(",", ".") for cell in cells[file]]


def _typed(
    path: Source, file: str, cells: list[str], lines: list[int], kind: str, needed: bool
) -> list[Any]:
    if kind == TEXT:
        return cells
    values: list[Any] = []
    for row, cell in enumerate(cells):
        value: float | None = math.nan if kind == FLOAT else UNKNOWN
        if cell or needed:
            value = _number(cell, kind)
        if value is None:
            raise FileFormatError(
                f"value {excerpt(cell, 40)!r}",
                where=f"{path}:{lines[row]}: {file}",
                expected="a whole number of at least 0" if kind == INT else "a number",
                hint=_cell_hint(cell),
            )
        values.append(value)
    return values


def _cell_hint(cell: str) -> str | None:
    hint = number_hint(cell)
    if hint and DECIMAL_COMMA.fullmatch(cell):
        return f"{hint}; or say decimal=',' ('lemix import': --set decimal=,)"
    if is_stamp(cell):
        return (
            "It looks like a date and time: time_unit='date' ('lemix import': --set time_unit=date)"
        )
    return hint


def _number(cell: str, kind: str) -> float | None:
    """Return a cell's value, None for what is none; counts are read exactly."""
    if kind == INT:
        plain = cell.isascii() and cell.isdecimal() and len(cell) < 19
        return int(cell) if plain else None
    value = number(cell)
    return value if math.isfinite(value) and abs(value) < 1e300 else None


def _times(
    path: Source,
    files: dict[str, str],
    cells: dict[str, list[str]],
    lines: list[int],
    unit: str,
    zone: str,
    kind: str,
) -> tuple[dict[str, FloatArray], str]:
    """Return seconds since the first of all times, which one clock must have given."""
    if unit == "date":
        rows = [
            (name, row) for row in range(len(lines)) for name in files if cells[files[name]][row]
        ]
        for name in _NEEDED[kind]:
            if name in files and "" in cells[files[name]]:
                row = cells[files[name]].index("")
                raise FileFormatError(
                    "an empty cell",
                    where=f"{path}:{lines[row]}: {files[name]}",
                    expected="a date and time",
                )
        stamps = [cells[files[name]][row] for name, row in rows]
        clock = read_stamps(str(path), stamps, [lines[row] for _, row in rows], zone)
        found = {name: np.full(len(lines), np.nan) for name in files}
        for (name, row), seconds in zip(rows, clock.seconds.tolist(), strict=True):
            found[name][row] = seconds
        return found, clock.said
    exact = {
        name: _exact(path, file, cells[file], lines, name in _NEEDED[kind] or name == DURATION)
        for name, file in files.items()
    }
    length = exact.pop(DURATION, None)
    if length is not None:
        starts = exact["start_s"]
        exact["end_s"] = [
            None if at is None or took is None else at + took
            for at, took in zip(starts, length, strict=True)
        ]
    zero = min(at for column in exact.values() for at in column if at is not None)
    said = f"as in the file; 0 = {zero} {unit}"
    return {
        name: np.array(
            [math.nan if at is None else seconds_between(zero, at, unit) for at in column]
        )
        for name, column in exact.items()
    }, said


def _exact(
    path: Source, file: str, cells: list[str], lines: list[int], needed: bool
) -> list[Decimal | None]:
    """Return the times of a column as the decimals they spell, None where a cell is empty."""
    found: list[Decimal | None] = []
    for row, cell in enumerate(cells):
        try:
            found.append(exact_decimal(cell) if cell or needed else None)
        except FieldError:
            raise FileFormatError(
                f"value {excerpt(cell, 40)!r}",
                where=f"{path}:{lines[row]}: {file}",
                expected="a number",
                hint=_cell_hint(cell),
            ) from None
    return found


def _forward_only(made: dict[str, Any], lines: list[int]) -> tuple[dict[str, Any], list[str]]:
    """Leave out spans that end before they begin, and say so."""
    back = np.asarray(made["end_s"]) < np.asarray(made["start_s"])
    said = [f"line {lines[row]}: ends before it begins; left out" for row in np.flatnonzero(back)]
    keep = np.flatnonzero(~back).tolist()
    if said:
        made = {name: [column[row] for row in keep] for name, column in made.items()}
    return made, shortened(said)
