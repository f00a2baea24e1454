"""The online re-optimiser: feasible, above the optimum, and blind to what has not arrived."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import PATIENT_S, tiny

from lemix_opt import Cluster, Costs, Instance, Objective, Workload, validate
from solvers import solve

OBJECTIVE = Objective(inference_response=2, training_response=1, makespan=1)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["async", "sync", "open"]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_it_is_feasible_and_no_better_than_the_optimum(seed: int, mode: str, fifo: bool) -> None:
    instance = tiny(seed, mode, fifo)
    found = solve(instance, "reoptimise", OBJECTIVE, time_limit_s=PATIENT_S)
    best = solve(instance, "cpsat", OBJECTIVE, time_limit_s=PATIENT_S)
    if best.status == "infeasible":
        return
    assert found.schedule is not None
    assert validate(instance, found.schedule) == []
    assert found.lower_bound is None
    assert found.objective >= best.objective - 1e-9
    if np.ptp(instance.workload.release_s) == 0:
        assert found.objective == pytest.approx(best.objective, rel=1e-9)


def one_gpu(release_s: list[float], forward_s: list[float]) -> Instance:
    costs = Costs(np.array(forward_s)[None, :, None], 0.0, 0.0, np.zeros((1, 1)))
    work = Workload([0] * len(release_s), release_s, 1, 8)
    return Instance(Cluster(1, 1, 1.0), work, costs, release_mode="open")


def test_it_does_not_wait_for_what_it_cannot_know() -> None:
    instance = one_gpu([0.0, 0.001], [0.1, 0.002])
    mean = Objective(inference_response=1)
    clairvoyant = solve(instance, "cpsat", mean)
    online = solve(instance, "reoptimise", mean)
    # The short one first: 0.001 + 0.002 + 0.1 and 0.002; the long one is under way at 1 ms.
    assert clairvoyant.objective == pytest.approx(0.103 + 0.002)
    assert online.objective == pytest.approx(0.1 + 0.101)


def test_what_has_started_does_not_depend_on_later_arrivals() -> None:
    rng = np.random.default_rng(3)
    release = np.sort(rng.integers(0, 40, 7)) / 1000
    forward = rng.integers(2, 12, 7) / 1000
    first = solve(one_gpu(release.tolist(), forward.tolist()), "reoptimise", OBJECTIVE)
    later = replace_last(release, forward)
    second = solve(later, "reoptimise", OBJECTIVE)
    assert first.schedule is not None
    assert second.schedule is not None
    before = [
        sorted(
            (int(i), float(b))
            for i, b in zip(s.operations.task, s.operations.start_s, strict=True)
            if b < release[-1] - 1e-9
        )
        for s in (first.schedule, second.schedule)
    ]
    assert before[0] == before[1]


def replace_last(release: np.ndarray, forward: np.ndarray) -> Instance:
    """Another last task, at the same moment or later."""
    longer = forward.copy()
    longer[-1] = 0.05
    return one_gpu(release.tolist(), longer.tolist())


def test_a_limit_that_is_over_before_the_first_plan_leaves_a_reason() -> None:
    found = solve(one_gpu([0.0, 0.001], [0.1, 0.002]), "reoptimise", time_limit_s=1e-9)
    assert found.schedule is None
    assert found.status == "unknown"
    assert "time" in found.explanation
