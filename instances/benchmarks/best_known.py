"""The table of best bounds known: a JSON file, strictly read, that only ever gets better."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np

from instances.benchmarks.benchmark import Benchmark, BestKnown, Mark
from instances.files import read_json, write_json
from lemix_opt.errors import FileFormatError, InfeasibleError, LemixError
from lemix_opt.evaluation import objective_value
from lemix_opt.schedule import Schedule
from lemix_opt.validation import validate

FORMAT = "lemix-opt best known"
VERSION = 1
MAX_BYTES = 2**26
"""Largest table accepted."""

SAME = 1e-9
"""Relative distance below which two values are the same."""

Key = tuple[str, str, str]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    instance: str
    objective: str
    fingerprint: str
    lower: Mark | None = None
    upper: Mark | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    unit: str
    entries: list[_Entry]


@dataclass(frozen=True)
class BestTable:
    """Best bounds known, in seconds.

    Parameters
    ----------
    entries : mapping
        By name of the instance, name of the objective and fingerprint of both.
    """

    entries: Mapping[Key, BestKnown]

    def of(self, benchmark: Benchmark) -> dict[str, BestKnown]:
        """Return what is known of an instance by objective, what it brings along included."""
        found = {}
        for name in benchmark.objectives:
            best = merged(
                self.entries.get(_key(benchmark, name), BestKnown()),
                benchmark.best_known.get(name, BestKnown()),
            )
            if best.lower or best.upper:
                found[name] = best
        return found


def merged(first: BestKnown, second: BestKnown) -> BestKnown:
    """Return the better of two lower and of two upper bounds; the first one's where equal."""

    def rank(mark: Mark | None, missing: float) -> float:
        return missing if mark is None else mark.value_s

    worst = -math.inf
    raised = rank(second.lower, worst) > _up(rank(first.lower, worst))
    lowered = _up(rank(second.upper, math.inf)) < rank(first.upper, math.inf)
    return BestKnown(
        second.lower if raised else first.lower, second.upper if lowered else first.upper
    )


def improved(
    table: BestTable,
    benchmark: Benchmark,
    objective: str,
    schedule: Schedule,
    upper: Mark,
    lower: Mark | None = None,
) -> BestTable:
    """Return the table with what a schedule and a bound add to it; it itself if they add nothing.

    Parameters
    ----------
    table : BestTable
        What is known so far.
    benchmark : Benchmark
        The instance.
    objective : str
        Name of the objective.
    schedule : Schedule
        A schedule, which is validated here.
    upper : Mark
        Its value and where it comes from.
    lower : Mark, optional
        A proven bound found with it.

    Raises
    ------
    InfeasibleError
        If the schedule breaks a rule or its value is not the one claimed.
    LemixError
        If a lower bound lies above the value of a schedule: one of them is wrong.
    """
    violations = validate(benchmark.instance, schedule)
    if violations:
        raise InfeasibleError(str(violations[0].message), where=benchmark.name)
    value = float(
        np.sum(objective_value(benchmark.instance, schedule, benchmark.objective(objective)))
    )
    if not abs(value - upper.value_s) <= SAME * max(abs(value), 1.0):
        raise InfeasibleError(
            f"value {upper.value_s:.9g} s",
            where=f"{benchmark.name}: upper",
            expected=f"{value:.9g} s, what the schedule is worth",
        )
    known = table.of(benchmark).get(objective, BestKnown())
    best = merged(known, BestKnown(lower, upper))
    _check(best, f"{benchmark.name}, {objective}")
    if best == known:
        return table
    return BestTable({**table.entries, _key(benchmark, objective): best})


def read_best_known(path: str | os.PathLike[str] | None = None) -> BestTable:
    """Read a table; the packaged one when no path is given.

    Raises
    ------
    FileFormatError
        If the file is no such table or holds impossible values; the message names file and field.
    """
    if path is None:
        with resources.as_file(resources.files("instances.benchmarks") / "best_known.json") as own:
            return read_best_known(own)
    path = Path(path)
    plain = read_json(path, FORMAT, VERSION, MAX_BYTES)
    try:
        file = msgspec.convert(plain, type=_File)
    except msgspec.ValidationError as error:
        raise refused(path, error) from None
    if file.unit != "s":
        raise FileFormatError(f"{file.unit!r}", where=f"{path}: unit", expected="'s'")
    entries: dict[Key, BestKnown] = {}
    for i, entry in enumerate(file.entries):
        where = f"{path}: entries[{i}]"
        key = (entry.instance, entry.objective, entry.fingerprint)
        if key in entries:
            raise FileFormatError(
                f"{entry.instance}, {entry.objective} a second time", where=where, expected="once"
            )
        entries[key] = BestKnown(entry.lower, entry.upper)
        _check(entries[key], where)
    return BestTable(entries)


def write_best_known(table: BestTable, path: str | os.PathLike[str]) -> None:
    """Write a table, sorted, so that equal tables have equal bytes."""
    entries = [_Entry(*key, best.lower, best.upper) for key, best in sorted(table.entries.items())]
    plain = {"format": FORMAT, "version": VERSION, "unit": "s", "entries": entries}
    write_json(plain, path, indent=1)


def refused(path: Path, error: msgspec.ValidationError) -> FileFormatError:
    """Return a decoder's complaint as an error that names file and field."""
    what, _, where = str(error).partition(" - at `$")
    field = where.strip("`").removeprefix(".")
    return FileFormatError(what, where=f"{path}: {field}" if field else str(path))


def _key(benchmark: Benchmark, objective: str) -> Key:
    return benchmark.name, objective, benchmark.fingerprint(objective)


def _up(value: float) -> float:
    return value + SAME * abs(value) if math.isfinite(value) else value


def _check(best: BestKnown, where: str) -> None:
    for side, mark in (("lower", best.lower), ("upper", best.upper)):
        if mark is not None and not (math.isfinite(mark.value_s) and mark.value_s >= 0):
            raise FileFormatError(
                f"{mark.value_s!r}", where=f"{where}.{side}.value_s", expected="seconds from 0 on"
            )
        if mark is not None and mark.seconds is not None and not mark.seconds >= 0:
            raise FileFormatError(
                f"{mark.seconds!r}", where=f"{where}.{side}.seconds", expected="seconds from 0 on"
            )
    if best.lower and best.upper and best.lower.value_s > _up(best.upper.value_s):
        raise LemixError(
            f"lower bound {best.lower.value_s:.9g} s ({best.lower.solver}) above the value "
            f"{best.upper.value_s:.9g} s of a schedule ({best.upper.solver})",
            where=where,
            expected="lower <= upper",
            hint="One of the two is wrong",
        )
