"""Late requests: columns stay below every optimum, and see what a node cannot do."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import MODES, random_instance, tiny, unlike

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from solvers import solve
from solvers.bounds.columns import LateRequests
from solvers.bounds.front import lower_bound
from solvers.exact.data import tick_data

LATE = Objective(late_penalty_s=2)


def late_value(instance: Instance, ends: list[float]) -> float:
    work = instance.workload
    late = [
        2 * work.weight[i]
        for i, end in enumerate(ends)
        if not work.kind[i] and end - work.release_s[i] > work.slo_s[i] + 1e-9
    ]
    return float(sum(late))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans(), st.booleans())
def test_never_above_the_optimum(seed: int, mode: str, fifo: bool, differ: bool) -> None:
    instance = tiny(seed, mode, fifo)
    if differ:
        instance = unlike(instance, seed)
        if np.any(np.all(instance.costs.held_bytes > 4 * 2.0**20, axis=0)):
            return
    best = optimum(instance, lambda ends: late_value(instance, ends))
    assert lower_bound(instance, LATE, evaluations=20).seconds <= best + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.sampled_from([0.3, 0.7, 1.0, 3.0]))
def test_never_above_a_schedule(seed: int, mode: str, tick: float) -> None:
    one = random_instance(seed, mode, False)
    rough = Instance(one.cluster, one.workload, one.costs, release_mode=mode, tick_s=tick)
    found = solve(one, "anneal", LATE, deterministic_limit=200)
    assert found.objective is not None
    assert lower_bound(rough, LATE, evaluations=30).seconds <= found.objective + 1e-9


def test_one_of_two_is_late_on_every_node() -> None:
    """Five requests of 2 s, all due after 3 s: one per node is in time, whole on its node."""
    workload = Workload([0] * 5, [0.0] * 5, 1, 8, slo_s=3.0)
    instance = Instance(
        Cluster(2, 1, 1.0), workload, Costs([[[2.0]] * 5], 0.0, 0.0, 0.0), tick_s=0.5
    )
    found = lower_bound(instance, LATE, evaluations=100)
    assert (found.seconds, found.name) == (pytest.approx(2 * 3), "columns")
    again = LateRequests(instance, tick_data(instance, bound=True))
    assert 2 * again.bound(found.multipliers["price"]) == pytest.approx(found.seconds)
