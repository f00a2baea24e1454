"""CSV logs of ``nvidia-smi --query-gpu=... --format=csv``."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from instances.recordings.clocks import odd_steps, read_stamps
from instances.recordings.source import MAX_TEXT_BYTES, Source, hashes
from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import FieldError, FileFormatError, suggest
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
_NUMBER = re.compile(r"([+-]?\d{1,15}(?:\.\d{1,9})?)\s*(\S*)")
_KNOWN = ("timestamp", *_METRICS, *_DEVICES)


@dataclass
class _Rows:
    """Cells of a log, by row."""

    stamps: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    values: list[tuple[int, str, float]] = field(default_factory=list)
    missing: int = 0
    heads: int = 0


def read_nvidia_smi(
    path: Source, fields: str = "", zone: str = "", max_bytes: int = MAX_TEXT_BYTES
) -> Recording:
    """Read a log of GPU counters; its fields may stand in any order.

    Units may be in the cells, in the header or nowhere (``nounits``). ``[N/A]`` and its like are
    left out and counted. A header that comes again, as when a script appends, begins nothing new.

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
    rows = csv.reader(io.StringIO(text_content(path, "an nvidia-smi log", max_bytes), newline=""))
    names = [_field(name)[0] for name in fields.split(",")] if fields else []
    if fields:
        _check_fields("fields", names)
        _check_units("fields", fields.split(","))
    found = _Rows()
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            place = f"{path}:{rows.line_num}"
            if not any(cells):
                continue
            if "timestamp" in cells:
                heads = [_field(cell)[0] for cell in cells]
                _check_fields(place, heads)
                _check_units(place, cells)
                if names and heads != names:
                    raise FileFormatError(
                        f"fields {', '.join(heads)[:200]}",
                        where=place,
                        expected=f"{', '.join(names)} as before",
                    )
                names, found.heads = heads, found.heads + 1
                continue
            if not names:
                raise FileFormatError(
                    f"no header: {', '.join(cells)[:60]!r}",
                    where=place,
                    expected="a header with 'timestamp'",
                    hint="Name the queried fields for a log written with noheader",
                )
            _add(found, place, rows.line_num, names, cells)
    except csv.Error as error:
        raise FileFormatError(
            f"{error}", where=f"{path}:{rows.line_num}", expected="comma-separated values"
        ) from None
    if not found.stamps:
        raise FileFormatError("no rows", where=str(path), expected="at least one row")
    return _recording(Path(path), found, names, zone)


def _field(head: str) -> tuple[str, str]:
    """Split ``memory.used [MiB]`` into field and unit."""
    name, _, unit = head.strip().partition(" [")
    return _ALIASES.get(name.strip(), name.strip()), unit.rstrip("]")


def _check_fields(place: str, names: list[str]) -> None:
    if "timestamp" not in names or len(set(names)) < len(names):
        twice = [name for name in names if names.count(name) > 1]
        raise FileFormatError(
            f"field {twice[0]!r} twice" if twice else "no field 'timestamp'",
            where=place,
            expected="'timestamp' and every other field once",
        )
    if not any(name in _METRICS for name in names):
        raise FieldError(
            f"fields {', '.join(names)[:200]}",
            where=place,
            expected="at least one counter",
            hint=suggest(names[-1], _METRICS),
        )


def _check_units(place: str, heads: list[str]) -> None:
    """Refuse a header whose units are not those that nvidia-smi counts in."""
    for name, unit in map(_field, heads):
        if unit and name in _METRICS and unit != _METRICS[name][1]:
            raise FileFormatError(
                f"unit {unit[:20]!r}", where=f"{place}: {name}", expected=repr(_METRICS[name][1])
            )


def _add(found: _Rows, place: str, line: int, names: list[str], cells: list[str]) -> None:
    if len(cells) != len(names):
        raise FileFormatError(
            f"{len(cells)} cells", where=place, expected=f"{len(names)}: {', '.join(names)}"
        )
    row = dict(zip(names, cells, strict=True))
    device = next((row[name] for name in _DEVICES if name in row), "")
    number = len(found.stamps)
    for name, cell in row.items():
        if name not in _METRICS:
            continue
        if _MISSING.fullmatch(cell):
            found.missing += 1
            continue
        metric, unit, factor = _METRICS[name]
        match = _NUMBER.fullmatch(cell)
        low = match is not None and unit != "C" and float(match[1]) < 0
        if match is None or low or match[2] not in ("", unit):
            raise FileFormatError(
                f"value {cell[:40]!r}",
                where=f"{place}: {name}",
                expected=f"a number{'' if unit == 'C' else ' of at least 0'}, with or without "
                f"{unit!r}, or [N/A]",
            )
        found.values.append((number, metric, float(match[1]) * factor))
    found.stamps.append(row["timestamp"])
    found.lines.append(line)
    found.devices.append(device)


def _recording(path: Path, found: _Rows, names: list[str], zone: str) -> Recording:
    clock = read_stamps(str(path), found.stamps, found.lines, zone)
    by = next((name for name in _DEVICES if name in names), "")
    numbers = _numbers(path, found, by)
    said = _odd(clock.seconds, np.array(found.lines), numbers)
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
            if not (name.isdecimal() and len(name) < 7):
                raise FileFormatError(
                    f"value {name[:40]!r}",
                    where=f"{path}:{found.lines[row]}: index",
                    expected="a number of a GPU",
                )
            numbers[row] = int(name)
    return numbers
