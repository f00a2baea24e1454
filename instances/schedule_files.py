"""Schedule files: versioned JSON beside the instance's own, or tables for large ones."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from instances.files import MAX_BYTES as MAX_JSON_BYTES
from instances.files import located, read_json, same_keys, write_json
from instances.json_columns import as_json
from instances.table_zip import MAX_BYTES, TableZip, is_zip, wants_tables, write_tables
from instances.trace_header import header_in
from instances.trace_tables import possible, schedule_tables
from instances.trace_tables import read_schedule as read_tables
from lemix_opt.checks import floats
from lemix_opt.errors import FileFormatError, LemixError
from lemix_opt.generated import Generated, Iterations
from lemix_opt.plain import columns_to_plain
from lemix_opt.schedule import Operations, Schedule

SCHEDULE = "lemix-opt schedule"
VERSION = 1
_FIELDS = ("node", "end_state", "release_s", "out_of_memory", "operations")
_LATER: dict[str, Any] = {"generated": None, "gave_way": []}
"""Fields that files written before there were such do not have."""
_BY_STAGE = ("start_s", "end_s")
NAME = "schedule.json"
"""Header of the tables."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of a schedule, and whether requests generated tokens in it."""

    tasks: int
    stages: int
    generated: bool


def write_schedule(
    schedule: Schedule, path: str | os.PathLike[str], *, compress: bool | None = None
) -> None:
    """Write a schedule, as JSON or as tables; the file appears whole or not at all.

    See `instances.write` for what decides between them, and for `compress`.
    """
    said = {"format": SCHEDULE, "version": VERSION}
    if not wants_tables(path, schedule.tasks):
        write_json(said | _schedule_to_plain(schedule), path)
        return
    made = schedule.generated
    stages = 0 if made is None else made.iterations.start_s.shape[1]
    said |= {"tasks": schedule.tasks, "stages": stages, "generated": made is not None}
    write_tables(path, NAME, said, schedule_tables(schedule), compress)


def read_schedule(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Schedule:
    """Read a schedule file of either form, which its content tells.

    Parameters
    ----------
    path : path-like
        A file made by `write_schedule`.
    max_bytes : int, optional
        As in `instances.read`.

    Raises
    ------
    FileFormatError
        If the file is no schedule file; the message names file and field.
    LemixError
        If the schedule itself is refused.
    """
    if not is_zip(path, "a schedule file"):
        most = MAX_JSON_BYTES if max_bytes is None else max_bytes
        return _schedule_from_plain(read_json(path, SCHEDULE, VERSION, most), Path(path))
    archive = TableZip(path, "a schedule file", MAX_BYTES if max_bytes is None else max_bytes)
    try:
        header = header_in(archive, NAME, SCHEDULE, VERSION, _Header)
        possible(archive, "tasks", header.tasks, 0)
        possible(archive, "stages", header.stages, int(header.generated))
        return read_tables(archive, header.generated, header.tasks, header.stages)
    except LemixError as error:
        raise located(error, archive.path) from None


def _object(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FileFormatError(
            f"{type(value).__name__}", where=f"{path}: {name}", expected="an object"
        )
    return value


def _pairs(path: Path, value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, list) or not all(isinstance(v, list) for v in value):
        raise FileFormatError(
            f"{str(value)[:60]}",
            where=f"{path}: gave_way",
            expected="a list of [task, seconds]",
        )
    return value


def _schedule_to_plain(schedule: Schedule) -> dict[str, Any]:
    made = schedule.generated
    return {
        "node": as_json(schedule.node),
        "end_state": as_json(schedule.end_state),
        "release_s": as_json(schedule.release_s),
        "out_of_memory": [list(event) for event in schedule.out_of_memory],
        "operations": columns_to_plain(schedule.operations, as_json),
        "generated": None if made is None else _generated_to_plain(made),
        "gave_way": [list(pair) for pair in schedule.gave_way],
    }


def _generated_to_plain(made: Generated) -> dict[str, Any]:
    rows = columns_to_plain(made.iterations, as_json)
    # By stage, so that a table without rows still says how many stages there are.
    rows |= {name: as_json(getattr(made.iterations, name).T) for name in _BY_STAGE}
    return columns_to_plain(made, as_json) | {"iterations": rows}


def _with_infinity(column: Any) -> Any:
    """Return a column of seconds in which null stands for infinity."""
    return [math.inf if s is None else s for s in column] if isinstance(column, list) else column


def _generated_from_plain(plain: dict[str, Any], path: Path) -> Generated:
    same_keys(path, "generated", plain, [f.name for f in fields(Generated)])
    rows = dict(_object(path, "generated.iterations", plain["iterations"]))
    same_keys(path, "generated.iterations", rows, [f.name for f in fields(Iterations)])
    for name in _BY_STAGE:
        rows[name] = floats(f"iterations.{name}", rows[name]).T
    columns = {name: value for name, value in plain.items() if name != "iterations"}
    for name in ("start_s", "first_token_s", "last_token_s"):
        columns[name] = _with_infinity(columns[name])
    return Generated(**columns, iterations=Iterations(**rows))


def _schedule_from_plain(plain: dict[str, Any], path: Path) -> Schedule:
    plain = _LATER | plain
    same_keys(path, "schedule", plain, [*_FIELDS, *_LATER])
    made = plain["generated"]
    rows = _object(path, "operations", plain["operations"])
    same_keys(path, "operations", rows, [f.name for f in fields(Operations)])
    release, lost = plain["release_s"], plain["out_of_memory"]
    if not isinstance(release, list | np.ndarray):
        raise FileFormatError("no list", where=f"{path}: release_s", expected="a list of seconds")
    try:
        events = tuple((int(t), int(s), int(n), float(at)) for t, s, n, at in lost)
    except (TypeError, ValueError):
        raise FileFormatError(
            f"{str(lost)[:60]}",
            where=f"{path}: out_of_memory",
            expected="a list of [task, stage, node, seconds]",
        ) from None
    try:
        return Schedule(
            plain["node"],
            Operations(**rows),
            plain["end_state"],
            _with_infinity(release),
            events,
            None if made is None else _generated_from_plain(_object(path, "generated", made), path),
            _pairs(path, plain["gave_way"]),
        )
    except LemixError as error:
        raise located(error, path) from None
