"""The engine's schedules are feasible; every broken rule is found and named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances

from lemix_opt import Cluster, Costs, Instance, Objective, Schedule, Workload
from lemix_opt.engine import simulate
from lemix_opt.evaluation import evaluate, objective_value
from lemix_opt.policy import FixedAssignment
from lemix_opt.validation import validate

MIB = 2.0**20


@given(instances(), st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_every_schedule_of_the_engine_is_feasible_and_complete(
    instance: Instance, seed: int
) -> None:
    where = np.random.default_rng(seed).integers(0, instance.cluster.nodes, instance.tasks)
    schedule = simulate(instance, FixedAssignment(tuple(where.tolist())))
    assert validate(instance, schedule) == []
    assert schedule == simulate(instance, FixedAssignment(tuple(where.tolist())))
    score = evaluate(instance, schedule)
    assert score.inference_done + score.training_done == instance.tasks
    idle = objective_value(instance, schedule, Objective(idle=1))
    assert isinstance(idle, float)
    assert idle >= -1e-9


def valid() -> tuple[Instance, Schedule]:
    shape = (1, 3, 2)
    costs = Costs(np.full(shape, 1.0), np.full(shape, 2.0), np.full(shape, 3 * MIB), MIB, 0.5, 0.25)
    workload = Workload([1, 1, 0], [0.0, 0.0, 0.0], 1, 8)
    instance = Instance(Cluster(2, 2, 8 * MIB), workload, costs)
    schedule = simulate(instance, FixedAssignment((0, 1, 0)))
    assert validate(instance, schedule) == []
    return instance, schedule


def edited(schedule: Schedule, row: tuple[int, int, int], **change: float) -> Schedule:
    o = schedule.operations
    index = np.flatnonzero((o.task == row[0]) & (o.phase == row[1]) & (o.stage == row[2]))
    columns = {name: getattr(o, name).copy() for name in o.__dataclass_fields__}
    for name, value in change.items():
        columns[name][index] += value
    return replace(schedule, operations=type(o)(**columns))


@pytest.mark.parametrize(
    ("row", "change", "rule"),
    [
        ((0, 0, 0), {"node": 1}, "one_node"),
        ((0, 0, 1), {"end_s": 0.5}, "duration"),
        ((0, 0, 1), {"start_s": -0.1, "end_s": -0.1}, "precedence"),
        ((0, 1, 0), {"start_s": -0.1, "end_s": -0.1}, "precedence"),
        ((0, 2, 0), {"start_s": 0.1, "end_s": 0.1}, "update"),
        ((1, 0, 0), {"start_s": -0.5, "end_s": -0.5}, "release"),
        ((2, 0, 0), {"phase": 1}, "operations"),
        ((0, 2, 0), {"phase": -1}, "operations"),
    ],
)
def test_a_moved_operation_is_found(
    row: tuple[int, int, int], change: dict[str, Any], rule: str
) -> None:
    instance, schedule = valid()
    assert rule in [v.rule for v in validate(instance, edited(schedule, row, **change))]


def test_two_operations_at_once_are_found() -> None:
    instance, schedule = valid()
    o = schedule.operations
    start = float(o.start_s[(o.task == 2) & (o.stage == 0)][0])
    found = validate(instance, edited(schedule, (2, 0, 0), start_s=-start, end_s=-start))
    assert found[0].rule == "exclusive"
    assert "stage 0 of node 0" in found[0].message


def test_too_much_memory_is_found() -> None:
    instance, schedule = valid()
    tight = replace(instance, memory_fraction=0.6)
    assert {v.rule for v in validate(tight, schedule)} == {"memory"}


def test_missing_and_undone_tasks_are_found() -> None:
    instance, schedule = valid()
    o = schedule.operations
    short = replace(schedule, operations=o.take(np.flatnonzero(o.task != 2)))
    assert validate(instance, short)[0].rule == "operations"
    undone = replace(schedule, end_state=[0, 0, 3])
    assert validate(instance, undone)[0].rule == "not_done"
    assert objective_value(instance, undone, Objective(makespan=1)) == float("inf")


def test_a_wrong_stored_release_is_found() -> None:
    instance, schedule = valid()
    wrong = replace(schedule, release_s=[0.0, 0.5, 0.0])
    assert [v.rule for v in validate(instance, wrong)] == ["stored_release"]


def test_overtaking_under_fifo_is_found() -> None:
    shape = (1, 2, 2)
    costs = Costs(np.ones(shape), 0.0, 0.0, 0.0)
    instance = Instance(Cluster(1, 2, 1.0), Workload([0, 0], [0.0, 0.0], 1, 8), costs, fifo=True)
    schedule = simulate(instance, FixedAssignment((0, 0)))
    late = edited(schedule, (0, 0, 1), start_s=4.0, end_s=4.0)
    assert [v.rule for v in validate(instance, late)] == ["fifo"]


def test_a_schedule_of_other_tasks_is_refused() -> None:
    instance, schedule = valid()
    assert validate(instance.window(np.array([0])), schedule)[0].rule == "shape"
