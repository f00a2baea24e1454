"""Replay: plans come true on their own costs, and end well on any other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import instances
from test_engine import B, F, build, run, starts
from test_kernel import Whimsical

from lemix_opt import Costs, Instance, Objective, Schedule, Trace
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError, LemixError, UnsupportedError
from lemix_opt.policy import FixedAssignment
from lemix_opt.replaying import replay
from lemix_opt.schedule import Operations
from lemix_opt.validation import validate
from solvers import solve
from solvers.registry import POLICIES

NAMES = ("jsq", "mix-rr", "random")
seeds = st.integers(0, 2**32 - 1)
parted = instances(beyond=True, weight_sync=None)
"""Instances with micro-batches or without, all of whose rules are replayed."""


def on(instance: Instance, actual: Costs | None = None) -> Trace:
    return Trace(instance, instance.costs if actual is None else actual, "synthetic", "made up")


def by(name: str, instance: Instance, seed: int) -> Schedule:
    return simulate(instance, POLICIES.create(name), seed=seed)


def scaled(costs: Costs, seed: int) -> Costs:
    rng = np.random.default_rng(seed)
    return Costs(
        costs.forward_s * rng.uniform(0.5, 3, costs.forward_s.shape),
        costs.backward_s * rng.integers(0, 3, costs.backward_s.shape),
        costs.held_bytes,
        costs.resident_bytes,
        costs.update_s * rng.integers(0, 3, costs.update_s.shape),
        costs.hop_s * rng.uniform(0.5, 3, costs.hop_s.shape),
        costs.all_reduce_s,
    )


def check_own_costs(instance: Instance, plan: Schedule) -> None:
    planned = replay(on(instance), plan, "planned")
    assert planned.schedule == plan
    early = replay(on(instance), plan).schedule
    assert validate(instance, early) == []
    assert np.all(early.operations.start_s <= plan.operations.start_s + 1e-9)
    assert replay(on(instance), early).schedule == early
    assert planned.end_shift_s is not None
    assert planned.end_shift_s.tolist() == [0.0] * instance.tasks


@given(parted, st.sampled_from(NAMES), seeds)
@settings(max_examples=200, deadline=None)
def test_on_its_own_costs_planned_is_the_schedule_and_order_is_no_later(
    instance: Instance, name: str, seed: int
) -> None:
    plan = by(name, instance, seed)
    if plan.complete:
        check_own_costs(instance, plan)
    else:
        assert replay(on(instance), plan, "planned").schedule == plan


@given(
    st.sampled_from(["backward_first", "fifo", "task_id"]), st.data(), st.sampled_from(NAMES), seeds
)
@settings(max_examples=100, deadline=None)
def test_order_is_the_schedule_where_nothing_waits_without_need(
    order: str, data: st.DataObject, name: str, seed: int
) -> None:
    instance = data.draw(instances(beyond=True, weight_sync=None, gpu_order=order))
    plan = by(name, instance, seed)
    blocks = plan.operations.phase != F
    length = plan.operations.end_s - plan.operations.start_s
    # An operation without length may leave its turn on the GPU.
    assume(plan.complete and np.all(length[blocks] > 0))
    assert replay(on(instance), plan).schedule == plan


@given(parted, st.sampled_from(NAMES), seeds, st.sampled_from(["order", "planned"]))
@settings(max_examples=150, deadline=None)
def test_other_times_give_a_feasible_schedule_under_them(
    instance: Instance, name: str, seed: int, timing: str
) -> None:
    plan = by(name, instance, seed)
    assume(plan.complete)
    actual = scaled(instance.costs, seed)
    schedule = replay(on(instance, actual), plan, timing).schedule
    assert validate(instance.with_costs(actual), schedule) == []
    if timing == "planned":
        both = schedule.operations.phase != 2
        own = plan.operations.phase != 2
        moved = schedule.operations.start_s[both] - plan.operations.start_s[own]
        assert np.all(moved >= -1e-9)


@given(parted, st.sampled_from(NAMES), seeds, st.sampled_from(["order", "planned"]))
@settings(max_examples=150, deadline=None)
def test_other_memory_drops_tasks_and_never_more_than_fits_is_held(
    instance: Instance, name: str, seed: int, timing: str
) -> None:
    plan = by(name, instance, seed)
    c = instance.costs
    rng = np.random.default_rng(seed)
    held = c.held_bytes * rng.integers(1, 5, c.held_bytes.shape) / 2
    actual = replace(c, held_bytes=held)
    out = replay(on(instance, actual), plan, timing)
    schedule = out.schedule
    planned, dropped = plan.end_state == 0, schedule.end_state == 2
    assert set(schedule.end_state[planned].tolist()) <= {0, 2}
    assert {i for i, *_ in schedule.out_of_memory} == set(np.flatnonzero(dropped).tolist())
    assert out.score.out_of_memory_events == len(schedule.out_of_memory)
    # An order may hold fewer micro-batches at once than 1F1B reserves memory for.
    reserves = instance.micro_batches > 1 and np.any(actual.held_bytes > 5.0)
    if schedule.complete and not reserves:
        assert validate(instance.with_costs(actual), schedule) == []


@given(instances(max_tasks=4), st.sampled_from([Objective(makespan=1), Objective(idle=1)]))
@settings(max_examples=25, deadline=None)
def test_optimal_schedules_replay_too(instance: Instance, objective: Objective) -> None:
    result = solve(instance, "cpsat", objective, deterministic_limit=1)
    if result.schedule is not None:
        check_own_costs(instance, result.schedule)


def test_order_moves_up_what_planned_keeps() -> None:
    # Under reserve the forward released at 7 waits until 12 for the backward that is owed at 8.
    instance = build([1, 0], [0.0, 7.0])
    plan = run(instance)
    c = instance.costs
    slow = Costs(c.forward_s * [[[1.5], [1.0]]], c.backward_s, 0.0, 0.0)
    assert starts(plan)[1, F, 0] == 12.0
    order, planned = (replay(on(instance, slow), plan, t) for t in ("order", "planned"))
    # Task 0: forwards 0-3, 3-6, backwards 6-10 and 10-14; then task 1.
    for outcome in (order, planned):
        assert starts(outcome.schedule)[0, B, 0] == 10.0
        assert starts(outcome.schedule)[1, F, 0] == 14.0
    fast = Costs(c.forward_s, c.backward_s / 2, 0.0, 0.0)
    order, planned = (replay(on(instance, fast), plan, t) for t in ("order", "planned"))
    # Backwards 4-6 and 6-8 in order, and task 1 at 8; as planned the second one waits for 8.
    assert [starts(order.schedule)[k] for k in ((0, B, 0), (1, F, 0))] == [6.0, 8.0]
    assert [starts(planned.schedule)[k] for k in ((0, B, 0), (1, F, 0))] == [8.0, 12.0]
    assert order.end_shift_s is not None
    assert order.end_shift_s.tolist() == [8.0 - 12.0, 12.0 - 16.0]


def test_memory_that_cannot_come_is_an_event_and_the_loop_goes_on() -> None:
    # Order on stage 0: forward 0, forward 1, forward 2, backward 0 at 8, and so on.
    instance = build([1, 1, 0], [0.0, 0.0, 0.0], gpu_order="backward_first", held=[4.0, 4.0, 1.0])
    plan = run(instance)
    assert [starts(plan)[i, F, 0] for i in range(3)] == [0.0, 4.0, 2.0]
    c = instance.costs
    held = np.array([[[4.0, 4.0], [7.0, 7.0], [1.0, 1.0]]])
    outcome = replay(on(instance, Costs(c.forward_s, c.backward_s, held, 0.0)), plan)
    # Forward 1 has its turn at 4, when task 0 holds 4 of 10 until its backward, which is later.
    assert outcome.schedule.out_of_memory == ((1, 0, 0, 4.0),)
    assert outcome.schedule.end_state.tolist() == [0, 2, 0]
    assert starts(outcome.schedule)[0, B, 0] == starts(plan)[0, B, 0]
    assert outcome.end_shift_s is not None
    assert outcome.end_shift_s[1] == np.inf


def test_a_dropped_task_frees_its_memory_and_releases_the_next_training_task() -> None:
    for mode, release in (("sync", 2.0), ("async", 2.0)):
        instance = build([1, 1], [0.0, 0.0], held=4.0, release_mode=mode)
        plan = run(instance)
        c = instance.costs
        held = np.array([[[4.0, 11.0], [10.0, 4.0]]])
        schedule = replay(on(instance, Costs(c.forward_s, c.backward_s, held, 0.0)), plan).schedule
        assert schedule.out_of_memory == ((0, 1, 0, 2.0),)
        assert schedule.end_state.tolist() == [2, 0]
        assert schedule.release_s.tolist() == [0.0, release]
        assert starts(schedule)[1, F, 0] == 2.0


@pytest.mark.parametrize("name", ["jsq", "lemix-reference"])
def test_a_policy_is_simulated_on_the_actual_costs(name: str) -> None:
    instance = build([1, 0, 1, 0], [0.0, 1.0, 2.0, 3.0], nodes=2)
    actual = scaled(instance.costs, 3)
    outcome = replay(on(instance, actual), POLICIES.create(name), seed=5)
    assert outcome.schedule == simulate(instance, POLICIES.create(name), actual=actual, seed=5)
    assert (outcome.truth, outcome.provenance, outcome.end_shift_s) == (
        "synthetic",
        "made up",
        None,
    )


@given(instances(release_mode="async"), seeds)
@settings(max_examples=100, deadline=None)
def test_deferrals_that_give_up_their_place_replay_as_planned(
    instance: Instance, seed: int
) -> None:
    plan = by("lemix-reference", instance, seed)
    schedule = replay(on(instance), plan, "planned").schedule
    assert schedule.operations == plan.operations
    assert schedule.release_s.tolist() == plan.release_s.tolist()


@given(parted, seeds, seeds)
@settings(max_examples=150, deadline=None)
def test_places_given_up_are_kept_and_stay_valid_under_other_costs(
    instance: Instance, seed: int, other: int
) -> None:
    plan = simulate(instance, Whimsical(seed))
    assert replay(on(instance), plan, "planned").schedule == plan
    actual = scaled(instance.costs, other)
    for timing in ("order", "planned"):
        try:
            executed = replay(on(instance, actual), plan, timing).schedule
        except LemixError:
            # Orders of GPUs may wait for each other where operations have lost their length.
            continue
        assert {task for task, _ in executed.gave_way} <= {task for task, _ in plan.gave_way}
        found = {v.rule for v in validate(instance.with_costs(actual), executed)}
        assert found <= {"not_done"}


def moved(schedule: Schedule, **change: Any) -> Schedule:
    o = schedule.operations
    columns = {name: getattr(o, name) for name in o.__dataclass_fields__} | change
    return replace(schedule, operations=Operations(**columns))


def test_orders_that_wait_for_each_other_are_an_error_that_names_them() -> None:
    instance = build([1, 0], [0.0, 0.0], gpu_order="backward_first")
    plan = run(instance)
    # Rows: task 0 forwards, backwards of stages 0 and 1, then task 1. Stage 0 takes task 1 after
    # the backward of task 0, stage 1 takes it before the forward of task 0.
    begin = np.array([0.0, 4.0, 6.0, 8.0, 9.0, 1.0])
    with pytest.raises(LemixError, match="cannot be executed") as found:
        replay(on(instance), moved(plan, start_s=begin, end_s=begin + 1))
    for waits in (
        "forward of task 1 on node 0 stage 1, which waits for forward of task 1 on node 0 stage 0",
        "forward of task 1 on node 0 stage 0, which waits for backward of task 0 on node 0 stage 0",
        "forward of task 0 on node 0 stage 1, which waits for forward of task 1 on node 0 stage 1",
    ):
        assert waits in str(found.value)
    training = build([1, 1], [0.0, 0.0], stages=1)
    plan = run(training)
    # Rows: forward and backward of task 0, then of task 1.
    begin = np.array([5.0, 0.0, 7.0, 9.0])
    with pytest.raises(LemixError, match=r"forward of task 0 .* waits for backward of task 0"):
        replay(on(training), moved(plan, start_s=begin, end_s=begin + 1))


def test_tasks_that_are_not_done_keep_their_state() -> None:
    instance = build([1, 0], [0.0, 0.0])
    plan = run(instance)
    keep = plan.operations.task == 1
    rows = plan.operations.take(np.flatnonzero(keep))
    part = Schedule([-1, 0], rows, [1, 0], [0.0, 0.0])
    outcome = replay(on(instance), part)
    assert outcome.schedule.end_state.tolist() == [1, 0]
    assert starts(outcome.schedule) == {(1, F, 0): 0.0, (1, F, 1): 2.0}
    assert outcome.end_shift_s is not None
    assert np.isnan(outcome.end_shift_s[0])


def test_what_does_not_fit_is_refused() -> None:
    instance = build([1, 0], [0.0, 0.0])
    plan = run(instance)
    trace = on(instance)
    rows = plan.operations
    cases: list[tuple[Any, str]] = [
        (run(build([1], [0.0])), "1 tasks"),
        (replace(plan, node=[3, 0]), "node below 1"),
        (replace(plan, node=[-1, 0]), "node 0; expected -1"),
        (moved(plan, stage=rows.stage + 1), "stage 2"),
        (moved(plan, micro_batch=rows.micro_batch + 1), "micro-batch 1"),
        (moved(plan, stage=np.zeros(rows.rows, dtype=int)), "a second"),
        (replace(plan, operations=rows.take(np.arange(1, rows.rows))), "task 0 runs"),
        ("mix-rr", "Schedule, or a Policy"),
    ]
    for given_plan, message in cases:
        with pytest.raises(FieldError, match=message):
            replay(trace, given_plan)
    with pytest.raises(FieldError, match="one of order, planned"):
        replay(trace, plan, timing="plan")
    with pytest.raises(FieldError, match="no plan"):
        replay(trace, FixedAssignment((0, 0)), timing="planned")
    with pytest.raises(FieldError, match="time_model"):
        replay(trace, plan, time_model=object())
    threads = replace(instance, gpu_sharing="reference_threads")
    with pytest.raises(UnsupportedError, match="reference_threads"):
        replay(on(threads), plan)


def test_an_operation_without_length_takes_no_turn_and_others_wait_for_its_memory() -> None:
    # The backward of task 0 on stage 0 lies, without length, inside the forward of task 1.
    backward = np.array([[[0.0, 4.0], [1.0, 1.0], [1.0, 1.0]]])
    forward, held = [[[2.0, 2.0], [7.0, 1.0], [2.0, 1.0]]], [[[6.0, 0.0], [3.0, 0.0], [5.0, 0.0]]]
    kw: dict[str, Any] = {"forward": np.array(forward), "held": np.array(held)}
    instance = build([1, 0, 0], [0.0, 0.0, 0.0], backward=backward, **kw)
    o = {(0, F, 0): 0.0, (0, F, 1): 2.0, (0, B, 0): 8.0, (0, B, 1): 4.0, (1, F, 0): 2.0}
    o |= {(1, F, 1): 9.0, (2, F, 0): 9.0, (2, F, 1): 11.0}
    task, phase, stage = np.array(sorted(o)).T
    begin = np.array([o[key] for key in sorted(o)])
    seconds = np.where(phase == F, instance.costs.forward_s[0, task, stage], 0)
    seconds = np.where(phase == B, backward[0, task, stage], seconds)
    rows = Operations(task, phase, stage, task * 0, task * 0, begin, begin + seconds)
    plan = Schedule([0, 0, 0], rows, [0, 0, 0], [0.0, 0.0, 0.0])
    assert validate(instance, plan) == []
    check_own_costs(instance, plan)
    c = instance.costs
    late = Costs(c.forward_s, c.backward_s * 2.5, c.held_bytes, 0.0)
    schedule = replay(on(instance, late), plan).schedule
    assert schedule.complete
    assert [starts(schedule)[k] for k in ((0, B, 0), (1, F, 0), (2, F, 0))] == [14.0, 2.0, 14.0]


def test_floating_point_noise_does_not_shift_a_plan() -> None:
    instance = build([0, 0], [0.1, 0.1], stages=1, forward=0.2)
    begin = np.array([0.1, 0.3])
    plan = moved(run(instance), start_s=begin, end_s=begin + 0.2)
    assert plan.operations.end_s[0] > 0.3
    check_own_costs(instance, plan)
    assert replay(on(instance), plan).schedule == plan


def test_memory_that_a_drop_frees_is_there_at_once() -> None:
    instance = build([0, 1], [1.0, 0.0], held=[1.0, 4.0], gpu_order="backward_first")
    plan = run(instance)
    c = instance.costs
    held = np.array([[[7.0, 7.0], [4.0, 11.0]]])
    schedule = replay(on(instance, Costs(c.forward_s, c.backward_s, held, 0.0)), plan).schedule
    # At 2 task 1 fails on stage 1; what it held on stage 0 is then free for task 0, also at 2.
    assert schedule.out_of_memory == ((1, 1, 0, 2.0),)
    assert starts(schedule)[0, F, 0] == 2.0
    again = replay(on(instance, Costs(c.forward_s, c.backward_s, held, 0.0)), schedule, "planned")
    assert again.schedule == schedule


@given(instances(max_tasks=6), st.sampled_from(["lemix", "lemix-reference", "separate"]), seeds)
@settings(max_examples=100, deadline=None)
def test_planned_reproduces_policies_that_defer_and_release_again(
    instance: Instance, name: str, seed: int
) -> None:
    plan = by(name, instance, seed)
    assert replay(on(instance), plan, "planned").schedule == plan
