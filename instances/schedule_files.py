"""Schedule files: versioned JSON beside the instance's own."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from instances.files import located, read_json, same_keys, write_json
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


def write_schedule(schedule: Schedule, path: str | os.PathLike[str]) -> None:
    """Write a schedule; the file appears whole or not at all."""
    write_json({"format": SCHEDULE, "version": VERSION, **_schedule_to_plain(schedule)}, path)


def read_schedule(path: str | os.PathLike[str]) -> Schedule:
    """Read a schedule file.

    Raises
    ------
    FileFormatError
        If the file is no schedule file; the message names file and field.
    LemixError
        If the schedule itself is refused.
    """
    return _schedule_from_plain(read_json(path, SCHEDULE, VERSION), Path(path))


def _object(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FileFormatError(
            f"{type(value).__name__}", where=f"{path}: {name}", expected="an object"
        )
    return value


def _pairs(path: Path, value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(v, list) for v in value):
        raise FileFormatError(
            f"{str(value)[:60]}",
            where=f"{path}: gave_way",
            expected="a list of [task, seconds]",
        )
    return value


def _schedule_to_plain(schedule: Schedule) -> dict[str, Any]:
    made = schedule.generated
    release = [None if math.isinf(r) else r for r in schedule.release_s.tolist()]
    return {
        "node": schedule.node.tolist(),
        "end_state": schedule.end_state.tolist(),
        "release_s": release,
        "out_of_memory": [list(event) for event in schedule.out_of_memory],
        "operations": columns_to_plain(schedule.operations),
        "generated": None if made is None else _generated_to_plain(made),
        "gave_way": [list(pair) for pair in schedule.gave_way],
    }


def _generated_to_plain(made: Generated) -> dict[str, Any]:
    rows = columns_to_plain(made.iterations)
    # By stage, so that a table without rows still says how many stages there are.
    rows |= {name: getattr(made.iterations, name).T.tolist() for name in _BY_STAGE}
    return columns_to_plain(made) | {"iterations": rows}


def _generated_from_plain(plain: dict[str, Any], path: Path) -> Generated:
    same_keys(path, "generated", plain, [f.name for f in fields(Generated)])
    rows = dict(_object(path, "generated.iterations", plain["iterations"]))
    same_keys(path, "generated.iterations", rows, [f.name for f in fields(Iterations)])
    for name in _BY_STAGE:
        rows[name] = floats(f"iterations.{name}", rows[name]).T
    columns = {name: value for name, value in plain.items() if name != "iterations"}
    for name in ("start_s", "first_token_s", "last_token_s"):
        if isinstance(columns[name], list):
            columns[name] = [math.inf if value is None else value for value in columns[name]]
    return Generated(**columns, iterations=Iterations(**rows))


def _schedule_from_plain(plain: dict[str, Any], path: Path) -> Schedule:
    plain = _LATER | plain
    same_keys(path, "schedule", plain, [*_FIELDS, *_LATER])
    made = plain["generated"]
    rows = _object(path, "operations", plain["operations"])
    same_keys(path, "operations", rows, [f.name for f in fields(Operations)])
    release, lost = plain["release_s"], plain["out_of_memory"]
    if not isinstance(release, list):
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
            [math.inf if r is None else r for r in release],  # type: ignore[arg-type]
            events,
            None if made is None else _generated_from_plain(_object(path, "generated", made), path),
            _pairs(path, plain["gave_way"]),
        )
    except LemixError as error:
        raise located(error, path) from None
