"""The table of best bounds: read strictly, improved only by what is better and holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instances.benchmarks import SUITES, BestKnown, BestTable, Mark
from instances.benchmarks.best_known import (
    improved,
    merged,
    read_best_known,
    write_best_known,
)
from instances.benchmarks.machines import p_rj_cmax
from instances.benchmarks.taillard import taillard_20x5
from lemix_opt import simulate
from lemix_opt.errors import FileFormatError, InfeasibleError, LemixError
from lemix_opt.schedule import Schedule
from solvers.registry import POLICIES

EMPTY = BestTable({})


def scheduled(name: str = "jsq", seeds: int = 1) -> tuple[Any, Schedule, float]:
    benchmark = p_rj_cmax(seeds)[0]
    schedule = simulate(benchmark.instance, POLICIES.create(name), seed=seeds)
    return benchmark, schedule, float(schedule.operations.end_s.max())


def mark(value_s: float, solver: str = "test") -> Mark:
    return Mark(value_s, solver, "because", "2026-01-31", "a machine", 1.5)


def test_the_packaged_table_is_consistent_and_about_instances_that_exist() -> None:
    table = read_best_known()
    known = {}
    for name in SUITES:
        if name != "mixed":
            for b in SUITES.create(name):
                known |= {(b.name, o, b.fingerprint(o)): b for o in b.objectives}
    assert set(table.entries) <= set(known)
    for best in table.entries.values():
        for side in (best.lower, best.upper):
            assert side is None or (side.solver and side.certificate)
            assert side is None or side.solver == "published" or (side.date and side.machine)
        if best.lower and best.upper:
            assert best.lower.value_s <= best.upper.value_s * (1 + 1e-9)


def test_a_table_survives_writing(tmp_path: Path) -> None:
    table = read_best_known()
    write_best_known(table, tmp_path / "own.json")
    assert read_best_known(tmp_path / "own.json") == table
    packaged = Path(read_best_known.__code__.co_filename).with_name("best_known.json")
    assert (tmp_path / "own.json").read_bytes() == packaged.read_bytes()


def test_other_problems_of_the_same_name_inherit_nothing() -> None:
    benchmark = taillard_20x5(1)[0]
    table = read_best_known()
    assert table.of(benchmark)["makespan"].upper is not None
    slower = replace(benchmark.instance.costs, forward_s=2 * benchmark.instance.costs.forward_s)
    other = replace(benchmark, instance=benchmark.instance.with_costs(slower))
    assert table.of(other) == {}
    assert benchmark.fingerprint("makespan") == taillard_20x5(1)[0].fingerprint("makespan")


def test_merging_keeps_the_better_side() -> None:
    first, second = BestKnown(mark(1, "a"), mark(3, "a")), BestKnown(mark(2, "b"), mark(3, "b"))
    both = merged(first, second)
    assert both.lower is second.lower
    assert both.upper is first.upper
    assert merged(BestKnown(), first) == first
    assert merged(first, BestKnown()) == first


def test_only_better_values_enter() -> None:
    benchmark, schedule, value = scheduled()
    name = "makespan"
    once = improved(EMPTY, benchmark, name, schedule, mark(value), mark(value / 2))
    assert once.of(benchmark)[name] == BestKnown(mark(value / 2), mark(value))
    again = improved(once, benchmark, name, schedule, mark(value, "late"), mark(value / 3))
    assert again is once
    raised = improved(once, benchmark, name, schedule, mark(value), mark(value, "proof"))
    assert raised.of(benchmark)[name] == BestKnown(mark(value, "proof"), mark(value))


def test_schedules_that_do_not_hold_are_refused() -> None:
    benchmark, schedule, value = scheduled()
    with pytest.raises(InfeasibleError, match=r"upper.*what the schedule is worth"):
        improved(EMPTY, benchmark, "makespan", schedule, mark(value / 2))
    ops = schedule.operations
    hasty = replace(schedule, operations=replace(ops, start_s=ops.start_s / 2, end_s=ops.end_s / 2))
    with pytest.raises(InfeasibleError, match=benchmark.name):
        improved(EMPTY, benchmark, "makespan", hasty, mark(value / 2))
    unplaced = replace(schedule, node=np.full_like(schedule.node, -1))
    with pytest.raises(InfeasibleError):
        improved(EMPTY, benchmark, "makespan", unplaced, mark(value))


def test_bounds_that_contradict_each_other_are_an_error() -> None:
    benchmark, schedule, value = scheduled()
    with pytest.raises(LemixError, match=r"lower bound .* above the value"):
        improved(EMPTY, benchmark, "makespan", schedule, mark(value), mark(1.01 * value))
    key = (benchmark.name, "makespan", benchmark.fingerprint("makespan"))
    wrong = BestTable({key: BestKnown(mark(2 * value), None)})
    with pytest.raises(LemixError, match="One of the two is wrong"):
        improved(wrong, benchmark, "makespan", schedule, mark(value))


ENTRY = {
    "instance": "ta001",
    "objective": "makespan",
    "fingerprint": "0",
    "lower": {"value_s": 1.0, "solver": "a", "certificate": "b"},
    "upper": {"value_s": 2.0, "solver": "a", "certificate": "b"},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": "ms"}, "unit: 'ms'"),
        ({"unit": 3}, "unit: Expected `str`"),
        ({"version": 2}, "version 2"),
        ({"entries": {}}, "entries: Expected `array`"),
        ({"entries": [ENTRY, ENTRY]}, r"entries\[1\].*a second time"),
        ({"entries": [{**ENTRY, "upper": 3}]}, r"entries\[0\]\.upper: Expected"),
        ({"entries": [{**ENTRY, "uper": None}]}, r"entries\[0\]: .*unknown field `uper`"),
        ({"entries": [{"instance": "x"}]}, r"entries\[0\]: .*missing required field"),
        (
            {"entries": [{**ENTRY, "lower": {**ENTRY["upper"], "value_s": 3}}]},
            r"entries\[0\].*above",
        ),  # type: ignore[dict-item]
        ({"entries": [{**ENTRY, "lower": {**ENTRY["upper"], "value_s": -1}}]}, r"lower\.value_s"),  # type: ignore[dict-item]
        ({"entries": [{**ENTRY, "lower": {**ENTRY["upper"], "seconds": -1}}]}, r"lower\.seconds"),  # type: ignore[dict-item]
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    plain = {"format": "lemix-opt best known", "version": 1, "unit": "s", "entries": [ENTRY]}
    (tmp_path / "bad.json").write_text(json.dumps(plain | change))
    with pytest.raises(LemixError, match=said) as caught:
        read_best_known(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value)


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    for name, content in {"a.json": b"[]", "b.json": b"\xff", "c.json": b"{"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=name):
            read_best_known(tmp_path / name)
    with pytest.raises(FileFormatError, match="no such file"):
        read_best_known(tmp_path / "absent.json")
