"""The columnar validator finds what the slow one finds, in sound and corrupted schedules alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import slow_validation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import generating, instances

from lemix_opt import (
    Cluster,
    Contention,
    Costs,
    Generation,
    Instance,
    IterationCosts,
    Iterations,
    MemoryWait,
    Schedule,
    WeightSync,
    Workload,
)
from lemix_opt.engine import simulate
from lemix_opt.errors import InfeasibleError
from lemix_opt.policy import FixedAssignment
from lemix_opt.schedule import OFFLOAD, RELOAD, SYNC, Operations
from lemix_opt.validation import operations, published_rules, structure, tokens, validate
from solvers.registry import POLICIES

Rng = np.random.Generator
COLUMNS = tuple(Operations.__dataclass_fields__)


def with_rows(schedule: Schedule, **columns: Any) -> Schedule:
    """Return the schedule with some columns of its operations replaced."""
    rows = {name: columns.get(name, getattr(schedule.operations, name)) for name in COLUMNS}
    rows["start_s"] = np.maximum(rows["start_s"], 0.0)
    rows["end_s"] = np.maximum(rows["end_s"], rows["start_s"])
    return replace(schedule, operations=Operations(**rows))


def pick(schedule: Schedule, rng: Rng) -> int:
    return int(rng.integers(schedule.operations.rows))


def moved(schedule: Schedule, rows: Any, by_s: float) -> Schedule:
    start, end = schedule.operations.start_s.copy(), schedule.operations.end_s.copy()
    start[rows] += by_s
    end[rows] += by_s
    return with_rows(schedule, start_s=start, end_s=end)


def altered(schedule: Schedule, name: str, row: Any, value: Any) -> Schedule:
    column = np.array(getattr(schedule.operations, name))
    column[row] = value
    return with_rows(schedule, **{name: column})


def appended(schedule: Schedule, **values: float) -> Schedule:
    rows = schedule.operations
    columns = {name: np.append(getattr(rows, name), values[name]) for name in COLUMNS}
    return replace(schedule, operations=Operations(**columns))


def doubled(schedule: Schedule, row: int) -> Schedule:
    return appended(schedule, **{n: getattr(schedule.operations, n)[row] for n in COLUMNS})


def without(schedule: Schedule, rows: Any) -> Schedule:
    keep = np.ones(schedule.operations.rows, dtype=bool)
    keep[rows] = False
    return replace(schedule, operations=schedule.operations.take(np.flatnonzero(keep)))


def swapped(schedule: Schedule, rng: Rng) -> Schedule:
    start, end = schedule.operations.start_s.copy(), schedule.operations.end_s.copy()
    one, other = pick(schedule, rng), pick(schedule, rng)
    for column in (start, end):
        column[[one, other]] = column[[other, one]]
    return with_rows(schedule, start_s=start, end_s=end)


def of_task(schedule: Schedule, task: int) -> Any:
    return np.flatnonzero(schedule.operations.task == task)


def on_other_node(instance: Instance, schedule: Schedule, rng: Rng) -> Schedule:
    task, node = int(rng.integers(instance.tasks)), int(rng.integers(instance.cluster.nodes + 1))
    where = np.array(schedule.node)
    where[task] = node
    rows = of_task(schedule, task)
    return altered(replace(schedule, node=where), "node", rows, node)


def with_move(instance: Instance, schedule: Schedule, rng: Rng, phases: Any) -> Schedule:
    task, stage = int(rng.integers(instance.tasks)), int(rng.integers(instance.cluster.stages))
    node, start = max(int(schedule.node[task]), 0), float(rng.integers(0, 9))
    for phase in phases:
        where = {"task": task, "phase": phase, "stage": stage, "micro_batch": 0, "node": node}
        schedule = appended(schedule, **where, start_s=start, end_s=start + 1.0)
        start += 2.0
    return schedule


def of_column(schedule: Schedule, name: str, rng: Rng, value: Any) -> Schedule:
    column = np.array(getattr(schedule, name))
    column[int(rng.integers(column.size))] = value
    return replace(schedule, **{name: column})


# Every kind of corruption of operations; they are asked only where there are operations.
OF_ROWS: dict[str, Callable[[Instance, Schedule, Rng], Schedule]] = {
    "one earlier": lambda i, s, r: moved(s, pick(s, r), -float(r.choice([0.1, 1.0, 2.0]))),
    "one later": lambda i, s, r: moved(s, pick(s, r), float(r.choice([0.1, 1.0, 2.0]))),
    "one within the tolerance": lambda i, s, r: moved(
        s, pick(s, r), float(r.choice([-5e-10, 5e-10]))
    ),
    "one just beyond the tolerance": lambda i, s, r: moved(
        s, pick(s, r), float(r.choice([-2e-9, 2e-9]))
    ),
    "all later": lambda i, s, r: moved(s, slice(None), 1.5),
    "all earlier": lambda i, s, r: moved(s, slice(None), -0.75),
    "a task earlier": lambda i, s, r: moved(s, of_task(s, int(r.integers(i.tasks))), -1.0),
    "a task later": lambda i, s, r: moved(s, of_task(s, int(r.integers(i.tasks))), 1.0),
    "a stage later": lambda i, s, r: moved(
        s, np.flatnonzero(s.operations.stage == r.integers(i.cluster.stages)), 0.5
    ),
    "a phase earlier": lambda i, s, r: moved(
        s, np.flatnonzero(s.operations.phase == r.integers(6)), -0.5
    ),
    "one longer": lambda i, s, r: altered(
        s, "end_s", (k := pick(s, r)), s.operations.end_s[k] + float(r.choice([1e-8, 0.5, 3.0]))
    ),
    "one of no length": lambda i, s, r: altered(
        s, "end_s", (k := pick(s, r)), s.operations.start_s[k]
    ),
    "all of a nanosecond": lambda i, s, r: with_rows(s, end_s=s.operations.start_s + 1e-9),
    "two swapped": lambda i, s, r: swapped(s, r),
    "all at once": lambda i, s, r: with_rows(
        s, start_s=0 * s.operations.start_s, end_s=s.operations.end_s - s.operations.start_s
    ),
    "one left out": lambda i, s, r: without(s, pick(s, r)),
    "a task left out": lambda i, s, r: without(s, of_task(s, int(r.integers(i.tasks)))),
    "all left out": lambda i, s, r: without(s, slice(None)),
    "one doubled": lambda i, s, r: doubled(s, pick(s, r)),
    "another phase": lambda i, s, r: altered(s, "phase", pick(s, r), r.integers(6)),
    "another stage": lambda i, s, r: altered(
        s, "stage", pick(s, r), r.integers(i.cluster.stages + 2)
    ),
    "another micro-batch": lambda i, s, r: altered(s, "micro_batch", pick(s, r), r.integers(5)),
    "another task": lambda i, s, r: altered(s, "task", pick(s, r), r.integers(i.tasks)),
    "another node": lambda i, s, r: altered(s, "node", pick(s, r), r.integers(i.cluster.nodes + 2)),
    "a synchronisation more": lambda i, s, r: with_move(i, s, r, [SYNC]),
    "two synchronisations more": lambda i, s, r: with_move(i, s, r, [SYNC, SYNC]),
    "moves more": lambda i, s, r: with_move(i, s, r, [OFFLOAD, RELOAD]),
    "half a move": lambda i, s, r: with_move(i, s, r, [r.choice([OFFLOAD, RELOAD])]),
    "a move of a move": lambda i, s, r: with_move(i, s, r, [OFFLOAD, RELOAD, OFFLOAD]),
}
# Corruptions of what is known of tasks.
OF_TASKS: dict[str, Callable[[Instance, Schedule, Rng], Schedule]] = {
    "a task on another node": on_other_node,
    "only a task's node": lambda i, s, r: of_column(
        s, "node", r, r.integers(-1, i.cluster.nodes + 2)
    ),
    "another end state": lambda i, s, r: of_column(s, "end_state", r, r.integers(4)),
    "all done": lambda i, s, r: replace(s, end_state=0 * s.end_state),
    "all on node 0": lambda i, s, r: replace(s, node=0 * s.node),
    "another release": lambda i, s, r: of_column(s, "release_s", r, float(r.integers(9))),
    "never released": lambda i, s, r: of_column(s, "release_s", r, np.inf),
    "a place given up": lambda i, s, r: replace(
        s, gave_way=(*s.gave_way, (int(r.integers(i.tasks)), float(r.integers(9))))
    ),
    "no place given up": lambda i, s, r: replace(s, gave_way=()),
    "an out-of-memory event": lambda i, s, r: replace(
        s,
        out_of_memory=(
            *s.out_of_memory,
            (int(r.integers(i.tasks + 1)), int(r.integers(5)), int(r.integers(4)), 2.0),
        ),
    ),
    "no out-of-memory event": lambda i, s, r: replace(s, out_of_memory=()),
}


def made_with(schedule: Schedule, name: str, rng: Rng, change: Callable[[Any], Any]) -> Schedule:
    """Change what was generated for one request."""
    made = schedule.generated
    assert made is not None
    column, at = np.array(getattr(made, name)), int(rng.integers(schedule.tasks))
    column[at] = max(change(column[at]), 0)
    return replace(schedule, generated=replace(made, **{name: column}))


def with_iterations(schedule: Schedule, **columns: Any) -> Schedule:
    """Return the schedule with some columns of its iterations replaced."""
    made = schedule.generated
    assert made is not None
    rows = made.iterations
    every = {name: columns.get(name, getattr(rows, name)) for name in rows.__dataclass_fields__}
    return replace(schedule, generated=replace(made, iterations=Iterations(**every)))


def with_count(schedule: Schedule, name: str, rng: Rng, more: int) -> Schedule:
    assert schedule.generated is not None
    column = np.array(getattr(schedule.generated.iterations, name))
    if column.size:
        column[int(rng.integers(column.size))] += more
    return with_iterations(schedule, **{name: column})


def with_times(schedule: Schedule, change: Callable[[Any, int], Any], rng: Rng) -> Schedule:
    assert schedule.generated is not None
    rows = schedule.generated.iterations
    at = int(rng.integers(max(rows.rows, 1)))
    start = np.maximum(change(rows.start_s, at), 0)
    return with_iterations(schedule, start_s=start, end_s=np.maximum(change(rows.end_s, at), start))


COUNTS = ("prefills", "prefill_tokens", "prefill_pairs", "decodes", "context_tokens", "kv_tokens")
# Corruptions of generated tokens.
OF_TOKENS: dict[str, Callable[[Instance, Schedule, Rng], Schedule]] = {
    "tokens": lambda i, s, r: made_with(s, "tokens", r, lambda v: v + r.integers(-1, 2)),
    "first token": lambda i, s, r: made_with(
        s, "first_token_s", r, lambda v: v + r.choice([-1.0, 5e-10, 1.0])
    ),
    "last token": lambda i, s, r: made_with(s, "last_token_s", r, lambda v: v + r.choice([-1, 1])),
    "preemptions": lambda i, s, r: made_with(s, "preemptions", r, lambda v: v + 1),
    "the node of an iteration": lambda i, s, r: with_count(s, "node", r, 1),
    "a count": lambda i, s, r: with_count(s, str(r.choice(COUNTS)), r, 1),
    "a large count": lambda i, s, r: with_count(s, str(r.choice(COUNTS)), r, 50),
    "an iteration earlier": lambda i, s, r: with_times(
        s, lambda c, at: c - 0.5 * (np.arange(len(c)) == at)[:, None], r
    ),
    "a stage earlier": lambda i, s, r: with_times(
        s, lambda c, at: c - 0.5 * (np.arange(c.shape[1]) == at % c.shape[1]), r
    ),
    "iterations later": lambda i, s, r: with_times(s, lambda c, at: c + 1.0, r),
    "iterations at once": lambda i, s, r: with_times(s, lambda c, at: c - c[:, :1], r),
    "a stage more": lambda i, s, r: with_times(s, lambda c, at: np.hstack((c, c[:, -1:])), r),
}


# Corruptions of the instance, so that the schedule breaks its rules.
OF_INSTANCE: dict[str, Callable[[Instance, Rng], Instance]] = {
    "less memory": lambda i, r: replace(
        i,
        cluster=replace(
            i.cluster, memory_bytes=i.cluster.memory_bytes * float(r.choice([0.5, 0.8]))
        ),
    ),
    "other costs": lambda i, r: replace(
        i, costs=replace(i.costs, forward_s=i.costs.forward_s * 1.1)
    ),
    "other hops": lambda i, r: replace(i, costs=replace(i.costs, hop_s=i.costs.hop_s + 0.25)),
    "longer updates": lambda i, r: replace(
        i, costs=replace(i.costs, update_s=i.costs.update_s + 0.5)
    ),
    "one order": lambda i, r: replace(i, fifo=True),
    "a closed loop": lambda i, r: replace(i, release_mode=str(r.choice(["sync", "async"]))),
    "no weights sent": lambda i, r: replace(i, weight_sync=None),
}


def run(instance: Instance, seed: int) -> Schedule:
    """Let one of several policies make a schedule."""
    rng = np.random.default_rng(seed)
    where = rng.integers(0, instance.cluster.nodes, instance.tasks)
    policies = [FixedAssignment(tuple(where.tolist())), POLICIES.create("jsq")]
    return simulate(instance, policies[int(rng.integers(2))])


def plainly(found: list[Any]) -> list[tuple[Any, ...]]:
    return [(v.rule, v.message, v.task, v.stage, v.node, v.time_s) for v in found]


def agree(instance: Instance, schedule: Schedule) -> list[Any]:
    """Return what both validators find, however few operations are looked at together."""
    found = validate(instance, schedule)
    assert plainly(found) == plainly(slow_validation.validate(instance, schedule))
    with pytest.MonkeyPatch.context() as patch:
        for module in (operations, structure, tokens):
            patch.setattr(module, "BLOCK_ROWS", 5)
        patch.setattr(published_rules, "PAIRS", 2)
        assert found == validate(instance, schedule)
    return found


cases = instances(6, beyond=True, shared=None) | generating(5)
thorough = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)


@given(cases, st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_both_accept_what_the_engine_makes(instance: Instance, seed: int) -> None:
    found = agree(instance, run(instance, seed))
    # Only the engine's own declaration that a task is not done may stand in the way.
    assert {v.rule for v in found} <= {"not_done"}


@pytest.mark.parametrize("kind", OF_ROWS)
@given(instance=instances(6, beyond=True, shared=None), seed=st.integers(0, 2**32 - 1))
@thorough
def test_both_find_corrupted_operations(kind: str, instance: Instance, seed: int) -> None:
    schedule, rng = run(instance, seed), np.random.default_rng(seed)
    for _ in range(3):
        if schedule.operations.rows:
            agree(instance, OF_ROWS[kind](instance, schedule, rng))


@pytest.mark.parametrize("kind", OF_TASKS)
@given(instance=cases, seed=st.integers(0, 2**32 - 1))
@thorough
def test_both_find_corrupted_tasks(kind: str, instance: Instance, seed: int) -> None:
    schedule, rng = run(instance, seed), np.random.default_rng(seed)
    for _ in range(3):
        if instance.tasks:
            agree(instance, OF_TASKS[kind](instance, schedule, rng))


@pytest.mark.parametrize("kind", OF_TOKENS)
@given(instance=generating(5), seed=st.integers(0, 2**32 - 1))
@thorough
def test_both_find_corrupted_tokens(kind: str, instance: Instance, seed: int) -> None:
    schedule, rng = run(instance, seed), np.random.default_rng(seed)
    for _ in range(3):
        if instance.tasks:
            agree(instance, OF_TOKENS[kind](instance, schedule, rng))


@pytest.mark.parametrize("kind", OF_INSTANCE)
@given(instance=instances(6, beyond=True), seed=st.integers(0, 2**32 - 1))
@thorough
def test_both_find_schedules_of_other_rules(kind: str, instance: Instance, seed: int) -> None:
    schedule = run(instance, seed)
    try:
        other = OF_INSTANCE[kind](instance, np.random.default_rng(seed))
    except InfeasibleError:
        # A task fits nowhere any more.
        return
    agree(other, schedule)


@given(instances(6, beyond=True, shared=None), st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_both_find_several_corruptions_at_once(instance: Instance, seed: int) -> None:
    schedule, rng = run(instance, seed), np.random.default_rng(seed)
    every = list(OF_ROWS.values()) + list(OF_TASKS.values())
    for number in rng.integers(0, len(every), 4).tolist():
        if schedule.operations.rows:
            schedule = every[number](instance, schedule, rng)
            agree(instance, schedule)


RULES = {
    "one_node",
    "not_done",
    "node_range",
    "operations",
    "out_of_memory",
    "duration",
    "precedence",
    "update",
    "release",
    "stored_release",
    "exclusive",
    "memory",
    "fifo",
    "sync",
    "warm_up",
    "threshold",
    "move",
    "gave_way",
    "iterations",
    "tokens",
    "one_iteration",
    "batch_cap",
    "chunk",
    "batch",
}


def modes() -> list[Instance]:
    """Return one instance of every mode."""
    shape, kinds = (1, 6, 2), np.array([1, 0, 1, 0, 1, 0])
    costs = Costs(np.ones(shape), 2 * np.ones(shape), 3.0, 0.0, 0.5, 0.25)  # type: ignore[arg-type]
    costs = replace(costs, held_bytes=np.full(shape, 3.0))
    work = Workload(kinds, np.arange(6) / 2, 1, 8, np.where(kinds, 0, 4))
    plain = Instance(Cluster(2, 2, 8.0), work, costs)
    each = IterationCosts([[1.0, 1.0]], 0.1, kv_bytes_per_token=[[0.25, 0.25]])  # type: ignore[arg-type]
    serves = {"costs": replace(costs, iteration=each)}
    return [
        plain,
        replace(plain, fifo=True),
        replace(plain, pipeline="gpipe", micro_batches=3),
        replace(plain, pipeline="1f1b", micro_batches=4, release_mode="sync"),
        replace(plain, gpu_sharing="reference_threads", contention=Contention(1.5, 1.3)),
        replace(plain, memory_rule="reference_threshold", cluster=Cluster(2, 2, 80.0)),
        replace(plain, memory_wait=MemoryWait(0.0, 0.0, 2.0)),
        replace(plain, weight_sync=WeightSync(1, 1.0, (1,))),
        replace(plain, **serves, generation=Generation("continuous", 2)),
        replace(plain, **serves, generation=Generation("continuous", 2, 4)),
    ]


def test_corruptions_break_every_rule_and_both_say_so() -> None:
    rules: set[str] = set()
    for instance in modes():
        sound = simulate(instance, FixedAssignment((0, 0, 0, 0, 0, 1)))
        kinds = OF_ROWS | OF_TASKS | (OF_TOKENS if instance.generation is not None else {})
        for name, corrupt in kinds.items():
            for seed in range(40 if name in OF_TOKENS else 6):
                rng = np.random.default_rng(seed)
                rules |= {v.rule for v in agree(instance, corrupt(instance, sound, rng))}
        tight = replace(
            instance, cluster=replace(instance.cluster, memory_bytes=np.full((2, 2), 4.0))
        )
        rules |= {v.rule for v in agree(tight, sound)}
        if instance.memory_rule == "reference_threshold":
            rules |= {v.rule for v in agree(replace(instance, memory_fraction=0.03), sound)}
        for seed in range(6):
            late = OF_ROWS["one later"](instance, sound, np.random.default_rng(seed))
            rules |= {v.rule for v in agree(replace(instance, fifo=True), late)}
    assert rules == RULES


def test_schedules_of_another_shape_are_refused_by_both() -> None:
    first, *_, last = modes()
    sound, made = (simulate(i, FixedAssignment((0,) * 6)) for i in (first, last))
    assert [v.rule for v in agree(first.window(np.arange(3)), sound)] == ["shape"]
    assert [v.rule for v in agree(last, sound)] == ["generated"]
    assert [v.rule for v in agree(first, made)] == ["generated"]


@pytest.mark.parametrize("tasks", [0, 1])
def test_both_accept_the_smallest_schedules(tasks: int) -> None:
    for instance in modes():
        small = instance.window(np.arange(tasks))
        assert agree(small, simulate(small, FixedAssignment((0,) * tasks))) == []


def test_bytes_beyond_64_bits_are_summed() -> None:
    """Sums of bytes do not overflow, nor lose the last byte."""
    huge = 2.0**62
    costs = Costs(np.ones((1, 3, 1)), np.ones((1, 3, 1)), np.full((1, 3, 1), huge), 0.0)  # type: ignore[arg-type]
    instance = Instance(Cluster(1, 1, 4 * huge), Workload([1, 1, 1], [0.0] * 3, 1, 8), costs)
    schedule = simulate(instance, FixedAssignment((0, 0, 0)))
    assert agree(instance, schedule) == []
    tight = replace(instance, cluster=Cluster(1, 1, 2 * huge))
    both = with_rows(
        schedule,
        start_s=np.array([0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        end_s=np.array([1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
    )
    assert "memory" in {v.rule for v in agree(tight, both)}
