"""The portfolio proves small optima, keeps what it was given, and can be interrupted."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from brute_force import optimum
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

from lemix_opt import Cluster, Costs, Instance, Objective, Schedule, Workload
from lemix_opt.result import Value
from lemix_opt.validation import validate
from solvers import portfolio, solve
from solvers.search.search import Search


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.integers(1, 2))
def test_proves_small_optima(seed: int, mode: str, workers: int) -> None:
    instance = tiny(seed, mode, False)
    found = solve(instance, "portfolio", REGULAR, time_limit_s=PATIENT_S, workers=workers)
    assert found.status == "optimal"
    best = optimum(instance, lambda ends: regular_value(instance, ends))
    assert found.objective == pytest.approx(best)
    assert found.schedule is not None
    assert validate(instance, found.schedule) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_deterministic_limit_gives_the_same_twice(mode: str) -> None:
    instance = random_instance(3, mode, False)
    first, second = (
        solve(instance, "portfolio", EVERY_TERM, deterministic_limit=1.0, seed=5) for _ in range(2)
    )
    assert first.schedule == second.schedule
    assert (first.objective, first.lower_bound) == (second.objective, second.lower_bound)


def test_the_trajectory_only_improves() -> None:
    found = solve(random_instance(9, "async", False), "portfolio", EVERY_TERM, time_limit_s=4)
    seconds, upper, lower = zip(*found.trajectory, strict=True)
    assert list(seconds) == sorted(seconds)
    assert list(upper) == sorted(upper, reverse=True)
    known = [bound for bound in lower if bound is not None]
    assert known == sorted(known)
    assert upper[-1] == found.objective
    assert found.lower_bound <= found.objective


def test_an_interrupted_run_returns_the_best_so_far() -> None:
    instance = random_instance(21, "async", False)
    seen: list[Value] = []

    def stop(schedule: Schedule, value: Value) -> None:
        seen.append(value)
        raise KeyboardInterrupt

    found = solve(
        instance, "portfolio", EVERY_TERM, time_limit_s=PATIENT_S, workers=2, on_solution=stop
    )
    assert found.explanation == "interrupted"
    assert found.objective == seen[0]


def test_an_error_in_the_annealing_thread_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cool = Search.cool

    def fail_aside(search: Search, *arguments: Any, **options: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("broken")
        cool(search, *arguments, **options)

    monkeypatch.setattr(Search, "cool", fail_aside)
    # Small instances are proven before the thread begins.
    monkeypatch.setattr(portfolio, "SMALL", 0)
    instance = random_instance(21, "async", False)
    with pytest.raises(ValueError, match="broken"):
        solve(instance, "portfolio", EVERY_TERM, time_limit_s=5, workers=2)


def test_levels_are_proven_one_by_one() -> None:
    instance = tiny(12, "async", False)
    objective = Objective(
        makespan=1, training_response=1, lexicographic=("makespan", "training_response")
    )
    found = solve(instance, "portfolio", objective, time_limit_s=PATIENT_S)
    exact = solve(instance, "cpsat", objective, time_limit_s=PATIENT_S)
    assert found.objective == exact.objective
    assert found.level_status == ("optimal", "optimal")


def test_no_tasks() -> None:
    none = Instance(
        Cluster(1, 2, 1.0), Workload([], [], [], []), Costs(np.ones((1, 0, 2)), 0.0, 0.0, 0.0)
    )
    found = solve(none, "portfolio", time_limit_s=2)
    assert (found.status, found.objective) == ("optimal", 0.0)


def test_never_worse_than_the_initial_schedule() -> None:
    instance = random_instance(17, "sync", True)
    good = solve(instance, "portfolio", REGULAR, time_limit_s=4)
    again = solve(instance, "portfolio", REGULAR, time_limit_s=0.2, initial=good.schedule)
    assert again.objective <= good.objective
    assert math.isfinite(again.objective)
