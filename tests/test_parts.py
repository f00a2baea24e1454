"""Micro-batches: the closed forms of GPipe and 1F1B, memory by shares, and what ends a task."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances
from test_engine import B, F, U, build, run

from lemix_opt import (
    Cluster,
    Costs,
    Instance,
    Schedule,
    Workload,
    evaluate,
    simulate,
    validate,
)
from lemix_opt.errors import InfeasibleError
from lemix_opt.instance import GPU_ORDERS
from lemix_opt.policy import Event, FixedAssignment
from lemix_opt.schedule import Operations

SIZES = list(product(range(1, 5), range(1, 9)))


def one_task(pipeline: str, stages: int, parts: int, f: float, b: float, **rules: Any) -> Instance:
    """One training task whose micro-batches take `f` and `b` seconds on every stage."""
    kw = {"forward": parts * f, "backward": parts * b, "stages": stages} | rules
    return build([1], [0.0], pipeline=pipeline, micro_batches=parts, **kw)


def starts(schedule: Schedule) -> dict[tuple[int, int, int, int], float]:
    o = schedule.operations
    columns = (o.task, o.phase, o.stage, o.micro_batch, o.start_s)
    return {(t, p, s, m): x for t, p, s, m, x in zip(*(c.tolist() for c in columns), strict=True)}


def gpipe(stages: int, parts: int, f: float, b: float) -> dict[tuple[int, int, int, int], float]:
    flush = (parts + stages - 1) * f
    cells = list(product(range(stages), range(parts)))
    forward = {(0, F, s, m): (s + m) * f for s, m in cells}
    return forward | {(0, B, s, m): flush + (stages - 1 - s + m) * b for s, m in cells}


def one_f_one_b(
    stages: int, parts: int, f: float, b: float
) -> dict[tuple[int, int, int, int], float]:
    found = {}
    for s, m in product(range(stages), range(parts)):
        warm_up = m < stages - s
        found[0, F, s, m] = s * f + m * (f if warm_up else f + b)
        found[0, B, s, m] = stages * f + m * (f + b) + (stages - 1 - s) * b
    return found


@pytest.mark.parametrize("order", GPU_ORDERS)
@pytest.mark.parametrize(("f", "b"), [(1.0, 1.0), (1.0, 2.0), (2.0, 0.5)])
@pytest.mark.parametrize(("pipeline", "closed"), [("gpipe", gpipe), ("1f1b", one_f_one_b)])
def test_equal_stages_give_the_closed_form(
    pipeline: str, closed: Any, f: float, b: float, order: str
) -> None:
    for stages, parts in SIZES:
        for fifo in (False, True):
            instance = one_task(pipeline, stages, parts, f, b, gpu_order=order, fifo=fifo)
            schedule = run(instance)
            assert starts(schedule) == pytest.approx(closed(stages, parts, f, b)), (stages, parts)
            assert schedule.end_s()[0] == pytest.approx((parts + stages - 1) * (f + b))
            assert validate(instance, schedule) == []


@pytest.mark.parametrize(("stages", "parts"), SIZES)
def test_bubbles_are_those_of_gpipe_in_both_definitions(stages: int, parts: int) -> None:
    instance = one_task("gpipe", stages, parts, 1.0, 1.0)
    score = evaluate(instance, run(instance))
    idle = stages - 1
    assert score.bubble_rate == pytest.approx(idle / (parts + idle), abs=1e-12)
    assert score.bubble_rate_reference == pytest.approx(idle / (2 * parts + idle), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(instances(beyond=True), st.integers(0, 2**32 - 1))
def test_every_task_is_done_and_the_validator_agrees(instance: Instance, seed: int) -> None:
    nodes = np.random.default_rng(seed).integers(0, instance.cluster.nodes, instance.tasks)
    where = [
        int(n) if instance.fits()[i, n] else int(np.argmax(instance.fits()[i]))
        for i, n in enumerate(nodes)
    ]
    schedule = run(instance, where) if instance.tasks else run(instance)
    assert schedule.complete
    assert validate(instance, schedule) == []


class Told(FixedAssignment):
    """Places everything on node 0 and keeps what it is told."""

    def __init__(self, tasks: int) -> None:
        super().__init__((0,) * tasks)
        object.__setattr__(self, "events", [])

    def observe(self, state: None, event: Any) -> None:
        self.events.append(event)  # type: ignore[attr-defined]


def told(instance: Instance, kind: str) -> list[tuple[Any, ...]]:
    policy = Told(instance.tasks)
    simulate(instance, policy)
    events: list[Event] = policy.events  # type: ignore[attr-defined]
    return [(e.time_s, e.phase, e.stage, e.memory_bytes) for e in events if e.kind == kind]


@pytest.mark.parametrize(("pipeline", "most"), [("gpipe", (4.0, 4.0)), ("1f1b", (2.0, 1.0))])
def test_a_policy_sees_a_phase_of_a_task_as_one_with_all_it_will_hold(
    pipeline: str, most: tuple[float, float]
) -> None:
    instance = one_task(pipeline, 2, 4, 1.0, 1.0, held=4.0)
    assert [(p, s, b) for _, p, s, b in told(instance, "start") if p == F] == [
        (F, 0, most[0]),
        (F, 1, most[1]),
    ]
    ends = {(p, s): time_s for time_s, p, s, _ in told(instance, "end")}
    rows = run(instance).operations
    for phase, stage in ends:
        here = (rows.phase == phase) & (rows.stage == stage)
        assert ends[phase, stage] == rows.end_s[here].max()
    assert len(told(instance, "end")) == 4


def test_1f1b_fits_where_gpipe_does_not() -> None:
    assert one_task("1f1b", 2, 4, 1.0, 1.0, held=4.0, memory=2.0).fits().all()
    with pytest.raises(InfeasibleError, match="stage 0"):
        one_task("gpipe", 2, 4, 1.0, 1.0, held=4.0, memory=2.0)


def test_a_share_is_free_when_fewer_micro_batches_are_left_than_shares() -> None:
    # 1F1B holds two of three shares on stage 0; its last but one backward there ends at 8.
    instance = build(
        [1, 0],
        [0.0, 0.0],
        forward=[3.0, 1.0],
        backward=3.0,
        held=np.array([[[3.0, 0.0], [2.0, 0.0]]]),
        memory=3.0,
        pipeline="1f1b",
        micro_batches=3,
        gpu_order="backward_first",
    )
    schedule = run(instance)
    times = starts(schedule)
    assert times[0, B, 0, 1] == 5.0
    assert times[1, F, 0, 0] == 6.0
    assert validate(instance, schedule) == []


def test_the_update_follows_the_last_micro_batch() -> None:
    times = starts(run(one_task("1f1b", 2, 2, 1.0, 2.0, update=5.0)))
    assert times[0, U, 1, 0] == times[0, B, 1, 1] + 2.0
    assert times[0, U, 0, 0] == times[0, B, 0, 1] + 2.0


@pytest.mark.parametrize(("mode", "second"), [("async", 3.0), ("sync", 10.0)])
def test_the_closed_loop_waits_for_the_last_micro_batch(mode: str, second: float) -> None:
    kw: dict[str, Any] = {"forward": 3.0, "backward": 4.5, "pipeline": "gpipe"}
    schedule = run(
        build([1, 1], [0.0, 0.0], nodes=2, micro_batches=3, release_mode=mode, **kw), [0, 1]
    )
    assert schedule.release_s.tolist() == [0.0, second]


def test_a_dropped_task_holds_its_memory_while_one_of_its_micro_batches_runs() -> None:
    instance = build(
        [1, 0],
        [0.0, 0.0],
        forward=2.0,
        held=np.array([[[2.0, 1.0], [3.0, 1.0]]]),
        memory=4.0,
        hop=0.5,
        pipeline="gpipe",
        micro_batches=2,
        gpu_order="backward_first",
    )
    c = instance.costs
    held = np.array([[[2.0, 9.0], [3.0, 1.0]]])
    actual = replace(c, held_bytes=held)
    schedule = run(instance, actual=actual)
    assert schedule.out_of_memory == ((0, 1, 0, 1.5),)
    assert schedule.end_state.tolist() == [2, 0]
    # Its second micro-batch runs from 1 to 2.
    assert starts(schedule)[1, F, 0, 0] == 2.0


def test_under_fifo_micro_batches_that_hold_memory_pass_a_task_that_waits_for_it() -> None:
    # On stage 1 task 1 is ready at 6.5, between both micro-batches of task 0.
    costs = Costs(
        [[[2.0, 2.0], [1.0, 1.0]]], 2.0, [[[0.0, 4.0], [0.0, 4.0]]], 0.0, 0.0, [[[5.0], [3.5]]]
    )
    instance = Instance(
        Cluster(1, 2, 5.0),
        Workload([1, 0], [0.0, 0.0], 1, 8),
        costs,
        pipeline="gpipe",
        micro_batches=2,
        gpu_order="fifo",
    )
    schedule = run(instance)
    times = starts(schedule)
    assert (times[0, F, 1, 0], times[0, F, 1, 1]) == (6.0, 7.0)
    assert times[1, F, 1, 0] == times[0, B, 1, 1] + 1.0
    assert validate(instance, schedule) == []


def test_in_one_order_the_micro_batches_of_a_task_follow_each_other() -> None:
    rules: dict[str, Any] = {"pipeline": "gpipe", "micro_batches": 2, "gpu_order": "task_id"}
    tasks = ([0, 1], [0.5, 0.0])
    apart = starts(run(build(*tasks, **rules)))
    assert (apart[0, F, 0, 0], apart[1, F, 0, 1]) == (1.0, 3.0)
    together = starts(run(build(*tasks, fifo=True, **rules)))
    assert (together[1, F, 0, 1], together[0, F, 0, 0]) == (1.0, 2.0)


def test_a_reservation_gives_way_where_all_of_a_node_would_wait_for_good() -> None:
    # On stage 1, task 2 waits for memory that task 1 frees after its last micro-batch, whose
    # forward there would reach into the backward that task 0 owes.
    costs = Costs(
        np.array([[[5.0, 4.0], [3.0, 5.0], [5.0, 1.0]]]),
        np.array([[[4.0, 4.0], [4.0, 3.0], [6.0, 1.0]]]),
        np.array([[[2.0, 1.0], [4.0, 3.0], [1.0, 2.0]]]),
        0.0,
    )
    instance = Instance(
        Cluster(1, 2, [[5.0, 6.0]]),
        Workload([1, 1, 1], [2.0, 4.0, 4.0], 1, 1),
        costs,
        pipeline="gpipe",
        micro_batches=2,
        release_mode="open",
    )
    schedule = run(instance)
    assert schedule.complete
    assert starts(schedule)[1, F, 1, 1] == 20.5
    assert validate(instance, schedule) == []


def test_a_forward_of_training_waits_for_no_backward_under_1f1b() -> None:
    # At 6 the last forward of task 0 on stage 0 would reach into the backward task 1 owes there.
    rules: dict[str, Any] = {"pipeline": "1f1b", "micro_batches": 3, "release_mode": "open"}
    seconds: dict[str, Any] = {"forward": [6.0, 0.75], "backward": [3.0, 0.75]}
    instance = build([1, 1], [0.0, 0.0], held=3.0, memory=4.0, **seconds, **rules)
    instance = replace(instance, cluster=Cluster(1, 2, [[4.0, 1.5]]))
    schedule = run(instance)
    assert starts(schedule)[0, F, 0, 2] == 6.0
    assert validate(instance, schedule) == []


@pytest.mark.parametrize(
    ("pipeline", "row", "change", "rule"),
    [
        ("gpipe", (0, B, 1, 0), 2.0, "precedence"),
        ("1f1b", (0, F, 0, 2), 2.0, "warm_up"),
        ("1f1b", (0, B, 0, 2), 20.0, "update"),
    ],
)
def test_the_validator_knows_the_pipelines(
    pipeline: str, row: tuple[int, int, int, int], change: float, rule: str
) -> None:
    instance = one_task(pipeline, 2, 3, 1.0, 1.0, update=0.5)
    schedule = run(instance)
    o = schedule.operations
    at = list(starts(schedule)).index(row)
    start, end = o.start_s.copy(), o.end_s.copy()
    start[at], end[at] = change, change + end[at] - start[at]
    columns = (o.task, o.phase, o.stage, o.micro_batch, o.node, start, end)
    wrong = replace(schedule, operations=Operations(*columns))
    assert rule in [v.rule for v in validate(instance, wrong)]
    # Only one of the micro-batches is missing.
    short = replace(schedule, operations=o.take(np.delete(np.arange(o.rows), at)))
    assert [v.rule for v in validate(instance, short)] == ["operations"]


def test_the_validator_counts_what_micro_batches_really_hold() -> None:
    # 1F1B keeps two of four shares on stage 0, GPipe all four.
    rules: dict[str, Any] = {"stages": 2, "parts": 4, "f": 1.0, "b": 1.0, "held": 4.0}
    roomy = one_task("gpipe", **rules)
    tight = one_task("1f1b", memory=2.0, **rules)
    assert validate(tight, run(tight)) == []
    found = {v.rule for v in validate(tight, run(roomy))}
    assert found == {"memory", "warm_up"}
