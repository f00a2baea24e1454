"""Quiet times: what is left out of the time axis changes no optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import MODES, PATIENT_S, REGULAR, regular_value, tiny

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from solvers import solve
from solvers.bounds.front import lower_bound, start_windows
from solvers.bounds.quiet import quiet_before
from solvers.exact.cpsat import CpSat
from solvers.exact.data import tick_data
from solvers.normal_form import NormalForm


def sparse(seed: int, mode: str, most: int = 40) -> Instance:
    """Draw a tiny instance and spread its releases."""
    instance = tiny(seed, mode, False)
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, most, instance.tasks)
    release_s = instance.workload.release_s + np.cumsum(steps)
    return replace(instance, workload=replace(instance.workload, release_s=release_s))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(MODES))
def test_bounds_and_windows_hold_with_quiet_times(seed: int, mode: str) -> None:
    normal = NormalForm.of(sparse(seed, mode), REGULAR)
    instance = normal.instance
    best_s = optimum(instance, lambda ends: regular_value(instance, ends))
    bound = lower_bound(instance, REGULAR, upper_s=best_s, evaluations=100)
    assert bound.seconds <= best_s + 1e-9
    windows = start_windows(instance, REGULAR, bound, best_s)
    found = CpSat(windows=windows).solve(instance, REGULAR, time_limit_s=PATIENT_S)
    assert found.objective == pytest.approx(best_s)


@given(st.integers(0, 10**6), st.sampled_from(MODES))
def test_the_time_axis_left_does_not_grow_with_idle_hours(seed: int, mode: str) -> None:
    near, far = sparse(seed, mode, 1), sparse(seed, mode, 10**6)
    data = tick_data(far, bound=True)
    left = data.release - quiet_before(far, data)
    work = tick_data(near, bound=True)
    total = work.horizon - int(work.release.max(initial=0))
    assert np.all(np.diff(np.sort(left)) >= 0)
    # Bursts are told apart by all work released so far at most.
    assert int(np.ptp(left)) <= far.tasks * total + int(near.workload.release_s.max())


def test_a_burst_may_wait_for_what_comes_within_it() -> None:
    work = Workload([0, 0, 0], [0.0, 0.003, 0.010], 1, 8)
    costs = Costs(np.array([[[0.005], [0.001], [0.001]]]), 0.0, 0.0, 0.0)
    instance = Instance(Cluster(1, 1, 1.0), work, costs)
    data = tick_data(instance, bound=True)
    # The long task may start after the short one, at 4 ms, and end at 9 ms.
    assert quiet_before(instance, data).tolist() == [0, 0, 1]


def test_later_ends_that_lower_the_objective_forbid_windows() -> None:
    work = Workload([0, 0], [0.0, 100.0], 1, 8)
    costs = Costs(np.full((1, 2, 1), 1.0), 0.0, 0.0, 0.0)
    instance = Instance(Cluster(1, 1, 1.0), work, costs)
    objective = Objective(node_time=1, inference_response=0.001)
    result = solve(instance, "portfolio", objective, time_limit_s=PATIENT_S)
    # The first request waits, so that the node is in use for two seconds only.
    assert result.status == "optimal"
    assert result.objective == pytest.approx(2 + 0.001 * (100 + 1))
