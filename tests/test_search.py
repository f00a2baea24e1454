"""Plans are decoded into feasible schedules, and annealing finds small optima."""

from __future__ import annotations

import brute_force
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import (
    EVERY_TERM,
    MODES,
    PATIENT_S,
    REGULAR,
    random_instance,
    regular_value,
    tiny,
)

from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.evaluation import objective_value
from lemix_opt.validation import validate
from solvers import solve
from solvers.exact.data import tick_data
from solvers.incumbent import Incumbent
from solvers.search.plan import Plan, decoded, plan_of
from solvers.search.search import Search, Steps


def shuffled(instance: Instance, rng: np.random.Generator) -> Plan:
    """Any legal order of operations, on any nodes where the tasks fit."""
    stages, training = instance.cluster.stages, instance.workload.is_training
    chains = [list(range(2 * stages if trains else stages)) for trains in training]
    order: list[int] = []
    while any(chains):
        open_loop = [i for i in np.flatnonzero(training) if chains[i][:1] == [0]]
        legal = [
            i
            for i, chain in enumerate(chains)
            if chain and not (training[i] and chain[0] == 0 and i != open_loop[0])
        ]
        i = int(rng.choice(legal))
        order.append(2 * stages * i + chains[i].pop(0))
    data = tick_data(instance, bound=False)
    fits = np.all(data.held <= data.room[:, None, :], axis=2)
    place = [int(rng.choice(np.flatnonzero(fits[:, i]))) for i in range(instance.tasks)]
    return Plan(np.array(order, dtype=np.int64), np.array(place, dtype=np.int64))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans())
def test_any_plan_is_a_schedule_that_costs_what_it_says(seed: int, mode: str, fifo: bool) -> None:
    instance = random_instance(seed, mode, fifo)
    best = Incumbent(instance, EVERY_TERM)
    search = Search(best)
    search.try_plan(shuffled(instance, np.random.default_rng(seed)))
    assert best.schedule is not None
    assert validate(instance, best.schedule) == []
    assert search.cost == pytest.approx(objective_value(instance, best.schedule, EVERY_TERM))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES))
def test_the_order_of_starts_gives_a_schedule_that_is_no_later(seed: int, mode: str) -> None:
    """Decoding an optimum's own order of starts keeps it optimal."""
    instance = tiny(seed, mode, False)
    optimum = solve(instance, "cpsat", REGULAR, time_limit_s=PATIENT_S)
    assert optimum.schedule is not None
    best = Incumbent(instance, REGULAR)
    Search(best).try_plan(plan_of(instance, optimum.schedule))
    assert best.first_value <= optimum.objective + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans())
def test_annealing_finds_small_optima(seed: int, mode: str, fifo: bool) -> None:
    instance = tiny(seed, mode, fifo, most=5)
    found = solve(instance, "anneal", REGULAR, deterministic_limit=2000)
    optimum = brute_force.optimum(instance, lambda ends: regular_value(instance, ends))
    assert found.objective >= optimum - 1e-9
    assert found.objective <= optimum * 1.25 + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans())
def test_plans_decoded_from_snapshots_cost_what_they_cost(seed: int, mode: str, fifo: bool) -> None:
    instance = random_instance(seed, mode, fifo)
    rng = np.random.default_rng(seed)
    search = Search(Incumbent(instance, EVERY_TERM))
    plan = shuffled(instance, rng)
    steps = Steps(plan, decoded(search.work, search.board, plan), search.work)
    for heat in (1.0, 0.02, 0.0):
        steps.take(search, rng, heat * steps.cost)
        assert steps.cost == pytest.approx(decoded(search.work, search.board, steps.plan))


def test_the_same_seed_gives_the_same_schedule() -> None:
    instance = random_instance(7, "async", False)
    first, second = (
        solve(instance, "anneal", EVERY_TERM, deterministic_limit=1500, seed=3) for _ in range(2)
    )
    assert first.schedule == second.schedule
    assert first.objective == second.objective


def test_never_worse_than_the_initial_schedule() -> None:
    instance = random_instance(11, "open", False)
    good = solve(instance, "anneal", EVERY_TERM, deterministic_limit=3000)
    again = solve(instance, "anneal", EVERY_TERM, deterministic_limit=1, initial=good.schedule)
    assert again.objective <= good.objective


def test_no_tasks_and_no_room_to_spare() -> None:
    cluster = Cluster(1, 2, 2.0**20)
    none = Instance(cluster, Workload([], [], [], []), Costs(np.ones((1, 0, 2)), 0.0, 0.0, 0.0))
    assert solve(none, "anneal", time_limit_s=1).schedule is not None
    tight = Instance(
        Cluster(1, 2, 1.5 * 2.0**20),
        Workload([1], [0.0], 1, 8),
        Costs([[[1, 1]]], [[[1, 1]]], 1.2 * 2.0**20, 0),
    )
    # Whole MiB would leave the task no room.
    assert solve(tight, "anneal", time_limit_s=1).objective == pytest.approx(4.0)
