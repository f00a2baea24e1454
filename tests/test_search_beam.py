"""Beam search and rebuilding: feasible plans, close to the best placement of their sequence."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import EVERY_TERM, MODES, REGULAR, random_instance, tiny

from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.validation import validate
from solvers.incumbent import Incumbent
from solvers.search.beam import grown
from solvers.search.plan import Plan, by_release, decoded, in_turn
from solvers.search.rebuild import rebuild
from solvers.search.search import Search


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans())
def test_a_grown_plan_is_a_schedule(seed: int, mode: str, fifo: bool) -> None:
    instance = random_instance(seed, mode, fifo)
    for sequence in by_release(instance):
        best = Incumbent(instance, EVERY_TERM)
        search = Search(best)
        plan = grown(search.work, search.allowed, sequence)
        assert plan is not None
        assert search.try_plan(plan)
        assert best.schedule is not None
        assert validate(instance, best.schedule) == []


def test_placements_are_the_best_of_their_sequence_nearly_always() -> None:
    """Schedules of equal cost count as one, so that now and then the better one is lost."""
    hits, cases = 0, 60
    for seed in range(cases):
        instance = tiny(seed, MODES[seed % 3], False, most=7)
        search = Search(Incumbent(instance, REGULAR))
        sequence = by_release(instance)[0]
        plan = grown(search.work, search.allowed, sequence)
        assert plan is not None
        found = decoded(search.work, search.board, plan)
        every = [
            decoded(search.work, search.board, Plan(plan.order, np.array(place)))
            for place in product(range(instance.cluster.nodes), repeat=instance.tasks)
            if search.allowed[place, np.arange(instance.tasks)].all()
        ]
        assert found >= min(every) - 1e-9
        hits += found <= min(every) + 1e-9
    assert hits >= 0.8 * cases


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES))
def test_rebuilding_never_loses_and_repeats_itself(seed: int, mode: str) -> None:
    instance = random_instance(seed, mode, False)
    costs = []
    for _ in range(2):
        search = Search(Incumbent(instance, REGULAR))
        search.begin()
        before = search.cost
        rebuild(search, np.random.default_rng(seed), rounds=12)
        assert search.cost <= before
        costs.append(search.cost)
    assert costs[0] == costs[1]


def test_too_many_tasks_for_a_beam_go_to_nodes_in_turn() -> None:
    instance = random_instance(5, "async", False)
    search = Search(Incumbent(instance, REGULAR))
    plan = in_turn(instance, search.allowed, by_release(instance)[1])
    assert search.try_plan(plan)
    assert np.all(search.allowed[plan.place, np.arange(instance.tasks)])
    tasks = 6000
    many = Instance(
        Cluster(1, 1, 1.0),
        Workload([0] * tasks, np.zeros(tasks), 1, 8),
        Costs(np.ones((1, tasks, 1)), 0.0, 0.0, 0.0),
    )
    large = Search(Incumbent(many, REGULAR))
    assert grown(large.work, large.allowed, by_release(many)[0]) is None
    assert large.try_plan(in_turn(many, large.allowed, by_release(many)[0]))
