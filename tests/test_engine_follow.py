"""The compiled execution of a given order: equal to the slow one, in every bit and every word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import fsum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_follow import slow_follow
from strategies import instances
from test_engine import build, run
from test_kernel import Whimsical

from lemix_opt import Costs, Instance, LemixError, Schedule, Trace, simulate
from lemix_opt.engine import exact_sum
from lemix_opt.replaying import replay
from lemix_opt.schedule import (
    BACKWARD,
    DEFERRED,
    DROPPED,
    FORWARD,
    OFFLOAD,
    RELOAD,
    SYNC,
    UNFINISHED,
    UPDATE,
    Operations,
)
from solvers.registry import POLICIES

COLUMNS = tuple(Operations.__dataclass_fields__)
seeds = st.integers(0, 2**32 - 1)
parted = instances(beyond=True, weight_sync=None)
policies = st.sampled_from(["jsq", "mix-rr", "random", "lemix", "separate", "whimsical"])
timings = st.sampled_from(["order", "planned"])


def seen(execute: Callable[[], Schedule]) -> tuple[Any, ...]:
    """Return all that is to be equal: every bit of a schedule, or the error and its words."""
    try:
        schedule = execute()
    except LemixError as error:
        return type(error), str(error)
    o = schedule.operations
    integers = [getattr(o, name).tolist() for name in COLUMNS[:5]]
    times = [column.tobytes() for column in (o.start_s, o.end_s, schedule.release_s)]
    others = (schedule.node, schedule.end_state)
    events = (schedule.out_of_memory, schedule.gave_way)
    return (*integers, *times, *(column.tolist() for column in others), *events)


def agree(instance: Instance, actual: Costs, plan: Schedule, timing: str) -> tuple[Any, ...]:
    trace = Trace(instance, actual, "synthetic", "made up")
    found = seen(lambda: replay(trace, plan, timing).schedule)
    assert found == seen(lambda: slow_follow(instance, actual, plan, timing == "planned"))
    return found


def planned_by(name: str, instance: Instance, actual: Costs, seed: int) -> Schedule:
    policy = Whimsical(seed) if name == "whimsical" else POLICIES.create(name)
    return simulate(instance, policy, actual, seed)


def others(costs: Costs, rng: np.random.Generator) -> Costs:
    """Draw actual costs near the given ones: some without length, some that need more memory."""

    def times(column: Any, least: float) -> Any:
        # Halves keep ties; anything else tells roundings apart.
        factor = rng.integers(0, 4, column.shape) / 2 if rng.random() < 0.5 else None
        factor = rng.uniform(0.2, 2, column.shape) if factor is None else factor
        return np.maximum(column * factor, least) if rng.random() < 0.8 else column

    held = costs.held_bytes
    if rng.random() < 0.7:
        held = held * rng.choice([0.5, 1.0, 1.5, rng.uniform(0, 3)], held.shape)
    resident = costs.resident_bytes * rng.choice([1.0, 1.0, rng.uniform(0, 5)])
    return Costs(
        times(costs.forward_s, 0.125),
        times(costs.backward_s, 0.0),
        held,
        resident,
        times(costs.update_s, 0.0),
        times(costs.hop_s, 0.0),
        times(costs.all_reduce_s, 0.0),
    )


def with_rows(plan: Schedule, columns: dict[str, Any]) -> Schedule:
    return replace(plan, operations=Operations(**columns))


def columns_of(plan: Schedule, rows: Any = slice(None)) -> dict[str, Any]:
    return {name: getattr(plan.operations, name)[rows].copy() for name in COLUMNS}


def shaken(plan: Schedule, rng: np.random.Generator) -> Schedule:
    """Return a schedule with other orders, ends, states and events; most of it fits together."""
    o, state = plan.operations, plan.end_state.copy()
    keep = np.ones(o.rows, dtype=bool)
    events = list(plan.out_of_memory)
    for task in np.flatnonzero(rng.random(plan.tasks) < 0.25).tolist():
        # It ran a beginning of what it had to, so that no part of it is ahead of another.
        own = np.flatnonzero(o.task == task)
        stages = int(o.stage[own].max(initial=0)) + 1
        place = np.where(o.phase == FORWARD, o.stage, 2 * stages - 1 - o.stage)
        keep[own] &= place[own] < rng.integers(0, 2 * stages + 1)
        keep[own] &= (o.phase[own] != UPDATE) & (o.phase[own] <= BACKWARD)
        state[task] = rng.choice([DEFERRED, DROPPED, UNFINISHED])
        if state[task] == DROPPED and rng.random() < 0.7:
            stage, time_s = int(rng.integers(0, stages + 1)), float(rng.integers(0, 20))
            events.append((task, stage, max(int(plan.node[task]), 0), time_s))
    columns = columns_of(plan, keep)
    moved = rng.random(int(keep.sum())) < rng.choice([0.0, 0.1, 0.5])
    shift = rng.integers(-3, 4, moved.size) * rng.choice([0.5, 1e-9, 0.3])
    length = columns["end_s"] - columns["start_s"]
    columns["start_s"] = np.maximum(columns["start_s"] + np.where(moved, shift, 0), 0)
    columns["end_s"] = columns["start_s"] + length * rng.choice([1.0, 1.0, 0.5, 2.0])
    release = plan.release_s * np.where(rng.random(plan.tasks) < 0.1, rng.random(), 1.0)
    release[rng.random(plan.tasks) < 0.05] = np.inf
    gave = [(i, t + rng.integers(-2, 3)) for i, t in plan.gave_way]
    gave += [(i, rng.integers(0, 9)) for i in range(plan.tasks) if rng.random() < 0.1]
    return Schedule(
        plan.node,
        Operations(**columns),
        state,
        release,
        tuple(events),
        gave_way=tuple((i, float(max(t, 0))) for i, t in gave),
    )


@given(parted, policies, seeds, timings)
@settings(max_examples=300, deadline=None)
def test_schedules_of_policies_are_executed_alike(
    instance: Instance, name: str, seed: int, timing: str
) -> None:
    rng = np.random.default_rng(seed)
    plan = planned_by(name, instance, instance.costs, seed)
    agree(instance, instance.costs, plan, timing)
    agree(instance, others(instance.costs, rng), plan, timing)


@given(parted, policies, seeds, timings)
@settings(max_examples=300, deadline=None)
def test_schedules_with_dropped_tasks_are_executed_alike(
    instance: Instance, name: str, seed: int, timing: str
) -> None:
    rng = np.random.default_rng(seed)
    happened = others(instance.costs, rng)
    plan = planned_by(name, instance, happened, seed)
    agree(instance, happened, plan, timing)
    agree(instance, others(happened, rng), plan, timing)


@given(parted, policies, seeds, timings)
@settings(max_examples=600, deadline=None)
def test_shaken_schedules_are_executed_or_refused_alike(
    instance: Instance, name: str, seed: int, timing: str
) -> None:
    rng = np.random.default_rng(seed)
    plan = shaken(planned_by(name, instance, instance.costs, seed), rng)
    agree(instance, others(instance.costs, rng), plan, timing)


def test_shaken_schedules_meet_all_that_can_happen() -> None:
    # A check of the test above: what it draws is neither all refused nor all harmless.
    met = set()

    @given(parted, policies, seeds, timings)
    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    def meet(instance: Instance, name: str, seed: int, timing: str) -> None:
        rng = np.random.default_rng(seed)
        plan = shaken(planned_by(name, instance, instance.costs, seed), rng)
        trace = Trace(instance, others(instance.costs, rng), "synthetic", "made up")
        try:
            schedule = replay(trace, plan, timing).schedule
        except LemixError as error:
            met.add("not planned" if "not planned" in str(error) else "a cycle")
            return
        for name, happens in (
            ("a drop", schedule.out_of_memory),
            ("a planned drop", np.any(plan.end_state == DROPPED)),
            ("a place given up", schedule.gave_way),
            ("all done", schedule.tasks and schedule.complete),
        ):
            met.update({name} if happens else ())

    meet()
    assert met == {
        "not planned",
        "a cycle",
        "a drop",
        "a planned drop",
        "a place given up",
        "all done",
    }


def _nothing(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    return plan


def _fewer_tasks(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    keep, last = plan.operations.task < plan.tasks - 1, plan.tasks - 1
    rows = plan.operations.take(np.flatnonzero(keep))
    return Schedule(plan.node[:last], rows, plan.end_state[:last], plan.release_s[:last])


def _more_tasks(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    columns = (np.append(column, 0) for column in (plan.node, plan.end_state, plan.release_s))
    node, state, release = columns
    return Schedule(node, plan.operations, state, release)


def _node_beyond(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    return replace(plan, node=plan.node + 3 * (rng.random(plan.tasks) < 0.3))


def _unplaced(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    return replace(plan, node=np.where(rng.random(plan.tasks) < 0.3, -1, plan.node))


def _state(value: int) -> Callable[..., Schedule]:
    def change(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
        return replace(plan, end_state=np.where(rng.random(plan.tasks) < 0.5, value, 0))

    return change


def _column(name: str, value: Callable[[Any], Any]) -> Callable[..., Schedule]:
    """Give another value to one operation."""

    def change(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
        columns = columns_of(plan)
        columns[name][row] = value(columns[name][row])
        columns["end_s"] = np.maximum(columns["start_s"], columns["end_s"])
        return with_rows(plan, columns)

    return change


def _without(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    return with_rows(plan, columns_of(plan, np.delete(np.arange(plan.operations.rows), row)))


def _without_some(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    return with_rows(plan, columns_of(plan, rng.random(plan.operations.rows) < 0.8))


def _one_task_out(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    return with_rows(plan, columns_of(plan, plan.operations.task != plan.operations.task[row]))


def _again(**change: int) -> Callable[..., Schedule]:
    """Add a row like another one, but for what is given."""

    def add(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
        columns = columns_of(plan)
        more = {name: change.get(name, column[row]) for name, column in columns.items()}
        columns = {name: np.append(column, more[name]) for name, column in columns.items()}
        return with_rows(plan, columns)

    return add


def _shuffled_starts(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    columns = columns_of(plan)
    columns["start_s"] = rng.permutation(columns["start_s"])
    columns["end_s"] = np.maximum(columns["start_s"], columns["end_s"])
    return with_rows(plan, columns)


def _reversed(plan: Schedule, row: int, rng: np.random.Generator) -> Schedule:
    columns = columns_of(plan)
    last_s = columns["end_s"].max()
    columns["start_s"], columns["end_s"] = last_s - columns["end_s"], last_s - columns["start_s"]
    return with_rows(plan, columns)


CORRUPTIONS = {
    "nothing": _nothing,
    "fewer tasks": _fewer_tasks,
    "more tasks": _more_tasks,
    "a node beyond the last": _node_beyond,
    "tasks without a node": _unplaced,
    "unfinished tasks": _state(UNFINISHED),
    "deferred tasks": _state(DEFERRED),
    "dropped tasks": _state(DROPPED),
    "an operation on another node": _column("node", lambda n: n + 1),
    "an operation of another task": _column("task", lambda i: max(i - 1, 0)),
    "a stage beyond the last": _column("stage", lambda s: s + 4),
    "another stage": _column("stage", lambda s: max(s - 1, 0)),
    "a micro-batch beyond the last": _column("micro_batch", lambda m: m + 4),
    "another micro-batch": _column("micro_batch", lambda m: m + 1),
    "another phase": _column("phase", lambda p: (p + 1) % 3),
    "an operation missing": _without,
    "some operations missing": _without_some,
    "a task without operations": _one_task_out,
    "an operation twice": _again(),
    "one more forward": _again(phase=FORWARD),
    "one more backward": _again(phase=BACKWARD),
    "one more update": _again(phase=UPDATE, micro_batch=0),
    "an update of a micro-batch": _again(phase=UPDATE, micro_batch=1),
    "one more synchronisation": _again(phase=SYNC),
    "one more move to the host": _again(phase=OFFLOAD),
    "one more move back": _again(phase=RELOAD),
    "starts in another order": _shuffled_starts,
    "the order reversed": _reversed,
    "an operation at the end": _column("start_s", lambda s: s + 50),
    "an operation at the beginning": _column("start_s", lambda s: 0 * s),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
@given(st.data(), seeds, timings)
@settings(max_examples=30, deadline=None)
def test_corrupted_schedules_are_refused_in_the_same_words(
    kind: str, data: st.DataObject, seed: int, timing: str
) -> None:
    instance = data.draw(parted.filter(lambda instance: instance.tasks > 0))
    rng = np.random.default_rng(seed)
    plan = planned_by("random", instance, instance.costs, seed)
    if plan.operations.rows:
        plan = CORRUPTIONS[kind](plan, int(rng.integers(plan.operations.rows)), rng)
        agree(instance, instance.costs, plan, timing)


def test_wide_and_narrow_columns_are_executed_alike() -> None:
    instance = build([1, 0, 1], [0.0, 0.0, 1.0])
    plan = run(instance)
    assert plan.operations.phase.dtype == np.int8
    wide = with_rows(plan, columns_of(plan))
    assert wide.operations.phase.dtype == np.int64
    for timing in ("order", "planned"):
        first = agree(instance, instance.costs, plan, timing)
        assert agree(instance, instance.costs, wide, timing) == first


def test_no_tasks_and_no_operations_are_executed_alike() -> None:
    nothing = Operations(*[np.empty(0, dtype=int)] * 5, np.empty(0), np.empty(0))
    for kinds in ([], [1, 0]):
        instance = build(kinds, [0.0] * len(kinds))
        state = [UNFINISHED] * len(kinds)
        plan = Schedule(np.full(len(kinds), -1), nothing, state, np.zeros(len(kinds)))
        assert isinstance(agree(instance, instance.costs, plan, "order")[0], list)


def test_events_of_other_tasks_and_stages_are_passed_over() -> None:
    instance = build([1, 0], [0.0, 0.0])
    plan = run(instance)
    first = plan.operations.take(np.flatnonzero(plan.operations.task == 0)[:1])
    events = ((7, 0, 0, 1.0), (0, 1, 0, 9.0), (0, 1, 0, 4.0), (0, 0, 0, 2.0), (-1, 0, 0, 3.0))
    part = Schedule([0, -1], first, [DROPPED, UNFINISHED], [0.0, 0.0], events)
    assert agree(instance, instance.costs, part, "planned")[-2] == ((0, 1, 0, 4.0),)


def test_a_schedule_that_is_executed_stays_as_it_was() -> None:
    instance = build([1, 0, 1], [0.0, 0.0, 1.0])
    plan = run(instance)
    before = seen(lambda: plan)
    replay(
        Trace(instance, others(instance.costs, np.random.default_rng(1)), "synthetic", "x"), plan
    )
    assert seen(lambda: plan) == before
    assert plan.complete


# Plain Python, as `inlined` keeps it.
add = getattr(exact_sum.add, "py_func", exact_sum.add)
rounded = getattr(exact_sum.rounded, "py_func", exact_sum.rounded)
finite = st.floats(-1e300, 1e300)


@given(st.lists(st.tuples(finite, st.booleans()), max_size=60), seeds)
@settings(max_examples=300, deadline=None)
def test_exact_sums_grow_and_shrink_without_rounding(
    terms: list[tuple[float, bool]], seed: int
) -> None:
    partials, count, inside = np.zeros(exact_sum.PARTIALS), 0, list[float]()
    rng = np.random.default_rng(seed)
    for term, shrinks in terms:
        if shrinks and inside:
            count = add(partials, count, -inside.pop(int(rng.integers(len(inside)))))
        else:
            inside.append(term)
            count = add(partials, count, term)
        assert rounded(partials, count) == fsum(inside)
