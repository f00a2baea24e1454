"""CSV logs of ``nvidia-smi --query-gpu=... --format=csv``."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from instances.csv_table import number_hint
from instances.formats import format_hint
from instances.recordings.clocks import is_stamp, odd_steps, read_stamps
from instances.recordings.source import MAX_TEXT_BYTES, Source, hashes, shortened
from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import FieldError, FileFormatError, excerpt, suggest
from lemix_opt.files import text_content
from lemix_opt.recording import Provenance, Recording, table

_MIB = 2.0**20
_METRICS = {
    "utilization.gpu": ("gpu_utilization_pct", "%", 1.0),
    "utilization.memory": ("memory_utilization_pct", "%", 1.0),
    "memory.total": ("memory_total_bytes", "MiB", _MIB),
    "memory.used": ("memory_used_bytes", "MiB", _MIB),
    "memory.free": ("memory_free_bytes", "MiB", _MIB),
    "memory.reserved": ("memory_reserved_bytes", "MiB", _MIB),
    "power.draw": ("power_w", "W", 1.0),
    "power.draw.average": ("power_average_w", "W", 1.0),
    "power.draw.instant": ("power_instant_w", "W", 1.0),
    "power.limit": ("power_limit_w", "W", 1.0),
    "temperature.gpu": ("temperature_c", "C", 1.0),
    "temperature.memory": ("memory_temperature_c", "C", 1.0),
    "clocks.sm": ("sm_clock_mhz", "MHz", 1.0),
    "clocks.mem": ("memory_clock_mhz", "MHz", 1.0),
    "clocks.gr": ("graphics_clock_mhz", "MHz", 1.0),
    "fan.speed": ("fan_pct", "%", 1.0),
}
"""Field of the query: metric, unit of the field, factor to the metric's unit."""
_ALIASES = {"clocks.current.sm": "clocks.sm", "clocks.current.memory": "clocks.mem"}
_ALIASES |= {"clocks.current.graphics": "clocks.gr", "gpu_uuid": "uuid", "gpu_name": "name"}
_DEVICES = ("index", "uuid", "pci.bus_id", "gpu_bus_id", "serial", "gpu_serial")
"""Fields that tell devices apart, best first."""
_DEVICES_SAID = 16
"""Devices whose clocks are written about."""
_MISSING = re.compile(
    r"\[?(n/?a|not supported|unknown error|insufficient permissions|not found"
    r"|gpu requires reset|gpu is lost|requested functionality has been deprecated)\]?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"([+-]?\d{1,15}(?:\.\d{1,9})?)\s*(\S*)", re.ASCII)
_LINE_END = re.compile(r"\r\n|\r|\n")
_MOST_FIELDS = 512
"""Fields of a query; nvidia-smi knows about 150."""
_PREAMBLE = 100
"""Lines at the top of a log among which the header is looked for."""
_LONGEST_LINE = 2**16
_KNOWN = ("timestamp", *_METRICS, *_DEVICES)


@dataclass
class _Rows:
    """Cells of a log, by row."""

    stamps: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    values: list[tuple[int, str, float]] = field(default_factory=list)
    units: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Unit in the cells of a field since the last header, and the line that had it first."""
    odd: FileFormatError | None = None
    """The first cell whose unit is not as in the others."""
    cut: list[str] = field(default_factory=list)
    missing: int = 0
    heads: int = 0
    before: int = 0
    """Lines above the header."""
    zeros: int = 0
    """Lines with zero bytes."""


def read_nvidia_smi(
    path: Source, fields: str = "", zone: str = "", max_bytes: int = MAX_TEXT_BYTES
) -> Recording:
    """Read a log of GPU counters; its fields may stand in any order.

    Units may be in the cells, in the header or nowhere (``nounits``). ``[N/A]`` and its like are
    left out and counted. A header that comes again, as when a script appends, begins nothing new.
    What a killed logger left of its last line is left out and reported, and so is a last line
    without end that may be cut: ``57, 10`` may have been ``57, 102``. Cells of a field have their
    unit all or none, between two headers.

    Parameters
    ----------
    path : path-like
        The log; ``timestamp`` must be among its fields.
    fields : str, default ""
        The fields as they were queried, with commas, for a log without header (``noheader``).
    zone : str, default ""
        IANA name of the time zone of the machine, which the log does not tell.
    max_bytes : int, default 2**26
        Largest content, decompressed.

    Returns
    -------
    Recording
        Samples, with the metric's unit at the end of its name; jumps of the clock are among the
        warnings of its provenance.

    Raises
    ------
    FileFormatError
        Naming file, line and field, what was found and what was expected.
    """
    text = text_content(path, "an nvidia-smi log", max_bytes)
    found = _Rows()
    names: list[str] = []
    if fields:
        names = _checked_fields("fields", fields.split(","))
    lines, whole = _lines_of(text)
    found.zeros = int(text.endswith("\0"))
    separator = _separator(lines)
    header = ""
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        rest = line.strip("\0 \t")
        if not rest:
            found.zeros += "\0" in line
            continue
        found.zeros += "\0" in line
        last = number == len(lines) and not whole
        if header and rest.endswith(header) and len(rest) > len(header):
            # A logger that was killed leaves no end of line for the next one.
            found.cut.append(f"line {number}: {excerpt(rest[: -len(header)], 60)!r}")
            rest = header
        if len(rest) > _LONGEST_LINE and '"' in rest:
            # Quotes are read by a library that has a limit of its own.
            raise FileFormatError(
                f"a line of {len(rest)} characters, {excerpt(rest, 40)!r}",
                where=place,
                expected=f"at most {_LONGEST_LINE}",
                hint=format_hint(text),
            )
        cells = _cells(rest, separator or ",")
        if "timestamp" in cells:
            heads = _checked_fields(place, cells, text)
            if names and heads != names:
                raise FileFormatError(
                    f"fields {excerpt(', '.join(heads))}",
                    where=place,
                    expected=f"{excerpt(', '.join(names))} as before",
                )
            names, header = heads, rest
            found.heads += 1
            found.units.clear()
            continue
        if not names:
            _check_preamble(place, rest, cells, bool(separator), text)
            found.before += 1
            continue
        try:
            _add(found, place, number, names, cells, last)
        except FileFormatError:
            if not last:
                raise
            found.cut.append(f"line {number}: {excerpt(rest, 60)!r}")
    if not found.stamps:
        raise FileFormatError(
            "no rows", where=str(path), expected="at least one row", hint=format_hint(text)
        )
    return _recording(Path(path), found, names, zone)


def _lines_of(text: str) -> tuple[list[str], bool]:
    """Return the lines of a log, and whether the last one has an end."""
    lines = _LINE_END.split(text.rstrip("\0"))
    if lines and not lines[-1]:
        return lines[:-1], True
    return lines, False


def _separator(lines: list[str]) -> str:
    """Return what stands between the fields of the header, empty where there is none."""
    for line in lines[:_PREAMBLE]:
        if "timestamp" in line and len(line) < _LONGEST_LINE:
            for separator in (",", ";", "\t"):
                if "timestamp" in _cells(line, separator):
                    return separator
    return ""


def _cells(line: str, separator: str) -> list[str]:
    row = next(csv.reader([line], delimiter=separator)) if '"' in line else line.split(separator)
    return [cell.strip() for cell in row]


def _check_preamble(place: str, line: str, cells: list[str], follows: bool, text: str) -> None:
    """Refuse a line above any header, unless a shell said it and a header follows."""
    if follows and not is_stamp(cells[0]):
        return
    raise FileFormatError(
        f"no header: {excerpt(line, 60)!r}",
        where=place,
        expected="a header with 'timestamp'",
        hint=format_hint(text)
        or "Name the queried fields for a log written with noheader: "
        "--set fields=timestamp,index,...",
    )


def _field(head: str) -> tuple[str, str]:
    """Split ``memory.used [MiB]`` into field and unit."""
    name, _, unit = head.strip().partition(" [")
    return _ALIASES.get(name.strip(), name.strip()), unit.rstrip("]")


def _checked_fields(place: str, heads: list[str], text: str = "") -> list[str]:
    """Return the names of the fields of a header, which must be known enough to be read."""
    if len(heads) > _MOST_FIELDS:
        raise FileFormatError(
            f"{len(heads)} fields", where=place, expected=f"at most {_MOST_FIELDS} fields"
        )
    names = [_field(head)[0] for head in heads]
    if "timestamp" not in names or len(set(names)) < len(names):
        twice = [name for name in names if names.count(name) > 1]
        raise FileFormatError(
            f"field {excerpt(twice[0])!r} twice" if twice else "no field 'timestamp'",
            where=place,
            expected="'timestamp' and every other field once",
        )
    if not any(name in _METRICS for name in names):
        raise FieldError(
            f"fields {excerpt(', '.join(names))}",
            where=place,
            expected="at least one counter",
            hint=format_hint(text) or suggest(names[-1], _METRICS),
        )
    _check_units(place, heads)
    return names


def _check_units(place: str, heads: list[str]) -> None:
    """Refuse a header whose units are not those that nvidia-smi counts in."""
    for name, unit in map(_field, heads):
        if unit and name in _METRICS and unit != _METRICS[name][1]:
            raise FileFormatError(
                f"unit {excerpt(unit, 20)!r}",
                where=f"{place}: {name}",
                expected=repr(_METRICS[name][1]),
            )


def _add(
    found: _Rows, place: str, line: int, names: list[str], cells: list[str], last: bool
) -> None:
    """Add a row; of the `last` one, which has no end, all must be there to the last letter."""
    if len(cells) != len(names):
        raise FileFormatError(
            f"{len(cells)} cells",
            where=place,
            expected=f"{len(names)}: {excerpt(', '.join(names))}",
            hint="If a logger was killed there, remove the line",
        )
    row = dict(zip(names, cells, strict=True))
    device = next((row[name] for name in _DEVICES if name in row), "")
    number = len(found.stamps)
    values: list[tuple[int, str, float]] = []
    missing = 0
    for name, cell in row.items():
        if name not in _METRICS:
            continue
        if _MISSING.fullmatch(cell):
            missing += 1
            continue
        metric, unit, factor = _METRICS[name]
        match = _NUMBER.fullmatch(cell)
        low = match is not None and unit != "C" and float(match[1]) < 0
        if match is None or low or match[2] not in ("", unit):
            raise FileFormatError(
                f"value {excerpt(cell, 40)!r}",
                where=f"{place}: {name}",
                expected=f"a number{'' if unit == 'C' else ' of at least 0'}, with or without "
                f"{unit!r}, or [N/A]",
                hint=number_hint(cell.removesuffix(unit).strip()),
            )
        _check_unit(found, f"{place}: {name}", name, match[2], cell, line, last)
        values.append((number, metric, float(match[1]) * factor))
    tail = names[-1]
    if last and tail in _KNOWN and not (_MISSING.fullmatch(cells[-1]) or _ends(tail, cells[-1])):
        raise FileFormatError(f"value {cells[-1]!r}", where=place, expected="a whole line")
    found.values += values
    found.missing += missing
    found.stamps.append(row["timestamp"])
    found.lines.append(line)
    found.devices.append(device)


def _ends(name: str, cell: str) -> bool:
    """Whether the unit at a cell's end shows that nothing of it is cut off."""
    return name in _METRICS and cell.endswith(_METRICS[name][1])


def _check_unit(
    found: _Rows, place: str, name: str, unit: str, cell: str, line: int, last: bool
) -> None:
    """Keep the first cell with a unit where others have none, or the other way round."""
    first_unit, first_line = found.units.setdefault(name, (unit, line))
    if unit == first_unit:
        return
    has, lacks = (f"with {u!r}" if u else "without a unit" for u in (first_unit, unit))
    error = FileFormatError(
        f"value {excerpt(cell, 40)!r}, {lacks}",
        where=place,
        expected=f"a number {has} as in line {first_line}",
        hint="If a logger was killed there, remove the line",
    )
    if last:
        raise error
    found.odd = found.odd or error


def _recording(path: Path, found: _Rows, names: list[str], zone: str) -> Recording:
    clock = read_stamps(str(path), found.stamps, found.lines, zone)
    by = next((name for name in _DEVICES if name in names), "")
    numbers = _numbers(path, found, by)
    if found.odd is not None:
        raise found.odd
    said = _odd(clock.seconds, np.array(found.lines), numbers)
    said += shortened([f"{row} is cut off; left out" for row in found.cut])
    if found.before:
        said.append(f"{found.before} lines above the header are no part of the log; left out")
    if found.zeros:
        said.append(
            f"{found.zeros} lines hold zero bytes, as files do after a power failure; left out"
        )
    if not by:
        said.append("no field tells devices apart; all rows have device -1")
    elif by != "index":
        order = dict(zip(found.devices, numbers.tolist(), strict=True))
        said.append(f"devices are numbered by {by}: {', '.join(order)[:300]}")
    if not zone and not clock.said.endswith("UTC"):
        said.append("the time zone is not known; steps of the local clock stay as they are")
    if found.missing:
        said.append(f"{found.missing} cells say that the value is not available and are left out")
    if found.heads > 1:
        said.append(f"{found.heads} headers: the log was begun again")
    unused = [name for name in names if name not in _KNOWN]
    if unused:
        said.append(f"fields left out: {', '.join(unused)[:300]}")
    rows = np.array([row for row, _, _ in found.values], dtype=np.int64)
    samples = table(
        "samples",
        {
            "time_s": clock.seconds[rows],
            "device": numbers[rows],
            "metric": [metric for _, metric, _ in found.values],
            "value": np.array([value for _, _, value in found.values], dtype=np.float64),
        },
    )
    provenance = Provenance(
        "recorded",
        "counters of GPUs, as logged by nvidia-smi",
        clock.said,
        inputs=hashes([path]),
        warnings=tuple(said),
    )
    return Recording(provenance, samples=samples)


def _odd(seconds: FloatArray, lines: IntArray, numbers: IntArray) -> list[str]:
    """Say where the clocks of devices went back or left gaps; of many devices only of the first."""
    order = np.argsort(numbers, kind="stable")
    firsts = np.flatnonzero(np.diff(numbers[order], prepend=-2))
    odd = []
    for mine in np.split(order, firsts[1:]):
        device = int(numbers[mine[0]])
        of = f"device {device}" if device >= 0 else ""
        odd += [found] if (found := odd_steps(seconds[mine], lines[mine], of)) else []
    said = [line for found in odd[:_DEVICES_SAID] for line in found]
    more = len(odd) - _DEVICES_SAID
    return [*said, *([f"the clocks of {more} more devices too"] if more > 0 else [])]


def _numbers(path: Path, found: _Rows, by: str) -> IntArray:
    """Return the device of every row: its index, or the place of its name among the names."""
    if not by:
        return np.full(len(found.devices), -1, dtype=np.int64)
    seen: dict[str, int] = {}
    numbers = np.empty(len(found.devices), dtype=np.int64)
    for row, name in enumerate(found.devices):
        numbers[row] = seen.setdefault(name, len(seen))
        if by == "index":
            if not (name.isascii() and name.isdecimal() and len(name) < 7):
                raise FileFormatError(
                    f"value {excerpt(name, 40)!r}",
                    where=f"{path}:{found.lines[row]}: index",
                    expected="a number of a GPU",
                )
            numbers[row] = int(name)
    return numbers
