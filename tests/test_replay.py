"""Replay: planned times come back exactly, orders are left-shifted, memory can run out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances

from lemix_opt import Cluster, Costs, Instance, Objective, Operations, Schedule, Trace, Workload
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError, LemixError, UnsupportedError
from lemix_opt.policy import FixedAssignment
from lemix_opt.replaying import replay
from lemix_opt.schedule import DONE, DROPPED
from lemix_opt.validation import validate
from solvers import solve
from solvers.registry import POLICIES

NAMES = st.sampled_from(["jsq", "mix-rr", "random", "lemix"])


def same(instance: Instance) -> Trace:
    return Trace(instance, instance.costs, "synthetic", "predictions come true")


@given(instances(), NAMES | st.just("lemix-reference"), st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_planned_reproduces_every_schedule_exactly(
    instance: Instance, name: str, seed: int
) -> None:
    plan = simulate(instance, POLICIES.create(name), seed=seed)
    assert replay(same(instance), plan, timing="planned").schedule == plan


@given(instances(), NAMES)
@settings(max_examples=200, deadline=None)
def test_order_is_feasible_never_later_and_a_fixed_point(instance: Instance, name: str) -> None:
    plan = simulate(instance, POLICIES.create(name))
    early = replay(same(instance), plan).schedule
    assert validate(instance, early) == []
    assert np.all(early.operations.start_s <= plan.operations.start_s + 1e-9)
    assert replay(same(instance), early).schedule == early


@given(instances(gpu_order="backward_first", fifo=False), NAMES)
@settings(max_examples=100, deadline=None)
def test_order_reproduces_schedules_that_never_wait_on_purpose(
    instance: Instance, name: str
) -> None:
    roomy = replace(
        instance, cluster=replace(instance.cluster, memory_bytes=instance.cluster.memory_bytes + 99)
    )
    plan = simulate(roomy, POLICIES.create("mix-rr" if name == "lemix" else name))
    assert replay(same(roomy), plan).schedule == plan


@given(instances(max_tasks=3), st.sampled_from(["makespan", "inference_response"]))
@settings(max_examples=25, deadline=None)
def test_planned_reproduces_exact_solutions(instance: Instance, term: str) -> None:
    found = solve(instance, "cpsat", Objective(**{term: 1.0}), time_limit_s=5)
    if found.schedule is None:
        return
    # Off the grid a solver may start later than needed, and end before its rounded duration.
    again = replay(same(instance), found.schedule, timing="planned").schedule
    assert validate(instance, again) == []
    assert again.operations.start_s == pytest.approx(found.schedule.operations.start_s, abs=1e-9)


@given(instances(), NAMES, st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_other_costs_give_a_schedule_of_the_actual_problem(
    instance: Instance, name: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    costs = instance.costs
    actual = replace(
        costs,
        forward_s=costs.forward_s * rng.uniform(0.5, 2, costs.forward_s.shape),
        backward_s=costs.backward_s * rng.uniform(0.5, 2, costs.backward_s.shape),
    )
    plan = simulate(instance, POLICIES.create(name))
    outcome = replay(Trace(instance, actual, "synthetic", "drawn"), plan)
    assert validate(instance.with_costs(actual), outcome.schedule) == []
    assert outcome.end_shift_s is not None
    assert np.all(np.isfinite(outcome.end_shift_s) == (plan.end_state == DONE))


def two_tasks(held: float = 1.0) -> Instance:
    """One GPU, a training and an inference task, 1 s each way; room for 2 bytes."""
    costs = Costs([[[1.0], [1.0]]], [[[1.0], [1.0]]], [[[held], [held]]], [[0.0]])  # type: ignore[arg-type]
    return Instance(Cluster(1, 1, 2.0), Workload([1, 0], [0.0, 0.5], 1, 8), costs)  # type: ignore[arg-type]


def test_order_and_planned_by_hand() -> None:
    instance = two_tasks()
    plan = Schedule(
        [0, 0],  # type: ignore[arg-type]
        Operations([0, 1, 0], [0, 0, 1], [0] * 3, [0] * 3, [0] * 3, [1, 3, 5], [2, 4, 6]),  # type: ignore[arg-type]
        [0, 0],  # type: ignore[arg-type]
        [0.0, 0.5],  # type: ignore[arg-type]
    )
    slow = replace(instance.costs, forward_s=2 * instance.costs.forward_s)
    trace = Trace(instance, slow, "synthetic", "twice as slow")
    order = replay(trace, plan).schedule.operations
    assert (order.start_s.tolist(), order.end_s.tolist()) == ([0, 4, 2], [2, 5, 4])
    planned = replay(trace, plan, timing="planned").schedule.operations
    assert (planned.start_s.tolist(), planned.end_s.tolist()) == ([1, 5, 3], [3, 6, 5])


def test_running_out_of_memory_is_an_event_not_a_hang() -> None:
    instance = two_tasks()
    plan = simulate(instance, FixedAssignment((0, 0)))
    more = replace(instance.costs, held_bytes=np.array([[[1.5], [1.0]]]))
    outcome = replay(Trace(instance, more, "synthetic", "more memory"), plan)
    # Forward 0–1, backward 1–2 and then the inference fits, whatever the training task holds.
    assert outcome.schedule.complete
    between = replace(plan, operations=replace(plan.operations, start_s=[0, 5, 1], end_s=[1, 6, 2]))
    outcome = replay(Trace(instance, more, "synthetic", "more memory"), between)
    assert outcome.schedule.end_state.tolist() == [DONE, DROPPED]
    assert outcome.schedule.out_of_memory == ((1, 0, 0, 1.0),)
    assert outcome.score.out_of_memory_events == 1


def test_hostile_plans_are_refused() -> None:
    instance = two_tasks()
    plan = simulate(instance, FixedAssignment((0, 0)))
    with pytest.raises(FieldError, match="expected 2 as in the trace"):
        replay(same(instance), Schedule([0], plan.operations.take([]), [1], [0.0]))  # type: ignore[arg-type]
    with pytest.raises(FieldError, match="task 0"):
        replay(same(instance), replace(plan, operations=plan.operations.take([1, 2])))  # type: ignore[arg-type]
    moved = replace(plan.operations, node=np.array([3, 3, 3]))
    with pytest.raises(FieldError, match="node 3"):
        replay(same(instance), replace(plan, operations=moved))
    backwards = replace(plan.operations, start_s=[5, 0, 0], end_s=[6, 1, 1])
    with pytest.raises(LemixError, match="can never start"):
        replay(same(instance), replace(plan, operations=backwards))
    with pytest.raises(FieldError, match="one of order, planned"):
        replay(same(instance), plan, timing="late")
    with pytest.raises(UnsupportedError, match="time_model"):
        replay(same(instance), plan, time_model=object())


def test_a_policy_is_replayed_on_actual_costs() -> None:
    instance = two_tasks()
    slow = replace(instance.costs, forward_s=2 * instance.costs.forward_s)
    policy = POLICIES.create("jsq")
    outcome = replay(Trace(instance, slow, "synthetic", "slow"), policy)
    assert outcome.schedule == simulate(instance, policy, slow)
    assert outcome.end_shift_s is None
