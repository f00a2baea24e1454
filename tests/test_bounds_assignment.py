"""Places in queues: exact for one stage and requests that come together, never too high."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import random_instance, tiny, unlike

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from solvers import solve
from solvers.bounds.assignment import assigned, assigned_at
from solvers.bounds.front import lower_bound
from solvers.exact.data import tick_data

RESPONSES = Objective(inference_response=2, late_penalty_s=3, makespan=0.5)


def requests_only(instance: Instance) -> Instance:
    kind = np.zeros(instance.tasks, dtype=int)
    return replace(instance, workload=replace(instance.workload, kind=kind))


def value(instance: Instance, ends: list[float]) -> float:
    work = instance.workload
    total = 0.5 * max(ends)
    for i, end in enumerate(ends):
        response = end - work.release_s[i]
        total += work.weight[i] * (2 * response + 3 * (response > work.slo_s[i] + 1e-9))
    return float(total)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_never_above_the_optimum(seed: int, fifo: bool, differ: bool) -> None:
    instance = requests_only(tiny(seed, "open", fifo))
    if differ:
        instance = requests_only(unlike(instance, seed))
    best = optimum(instance, lambda ends: value(instance, ends))
    assert lower_bound(instance, RESPONSES, evaluations=10).seconds <= best + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.7, 1.0, 3.0]))
def test_never_above_a_schedule(seed: int, tick: float) -> None:
    one = requests_only(random_instance(seed, "open", False))
    rough = Instance(one.cluster, one.workload, one.costs, release_mode="open", tick_s=tick)
    found = solve(one, "anneal", RESPONSES, deterministic_limit=200)
    assert found.objective is not None
    assert lower_bound(rough, RESPONSES, evaluations=10).seconds <= found.objective + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_exact_where_requests_come_together(seed: int) -> None:
    """One stage, two unlike nodes: the best of all placements, shortest first on every node."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 20, (2, 5, 1)).astype(float)
    workload = Workload([0] * 5, [3.0] * 5, 1, 8)
    instance = Instance(
        Cluster(2, 1, 1.0, [0, 1]), workload, Costs(length, 0.0, 0.0, 0.0), tick_s=1.0
    )
    best = min(
        sum(np.cumsum(np.sort(length[n, np.array(nodes) == n, 0])).sum() for n in range(2))
        for nodes in product(range(2), repeat=5)
    )
    found = lower_bound(instance, Objective(inference_response=1), evaluations=0)
    assert (found.seconds, found.name) == (pytest.approx(best), "assignment")


def test_bursts_add_up() -> None:
    """Two bursts of two requests of 2 s on one node: 2 + 4 s each; the cut certifies it."""
    workload = Workload([0] * 4, [0.0, 0.0, 50.0, 50.0], 1, 8)
    costs = Costs([[[2.0]] * 4], 0.0, 0.0, 0.0)
    instance = Instance(Cluster(1, 1, 1.0), workload, costs, tick_s=1.0)
    data = tick_data(instance, bound=True)
    found = assigned(instance, data, data.release)
    assert (found.seconds, found.cuts) == (pytest.approx(12), (50,))
    assert assigned_at(instance, data, data.release, 0, found.cuts) == pytest.approx(12)
