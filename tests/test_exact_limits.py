"""Limits, interruption and the corners of the exact solver."""

from __future__ import annotations

import _thread
import threading
from dataclasses import replace

import numpy as np
import pytest
from small_instances import PATIENT_S, REGULAR, flow_shop, tiny

from lemix_opt import Cluster, Costs, Instance, Objective, Schedule, Workload
from lemix_opt.result import Value
from lemix_opt.validation import validate
from solvers import solve
from solvers.exact.limits import Limits

SLO = Objective(inference_response=4, training_response=1, late_penalty_s=2)


def hard(tasks: int, fifo: bool = False) -> Instance:
    rng = np.random.default_rng(tasks)
    shape = (1, tasks, 3)
    kind = rng.integers(0, 2, tasks)
    costs = Costs(
        rng.integers(5, 90, shape) / 1000,
        rng.integers(5, 90, shape) / 1000,
        rng.integers(1, 5, shape) * 2.0**20,
        0.0,
    )
    work = Workload(kind, np.sort(rng.integers(0, 40 * tasks, tasks)) / 1000, 1, 8, slo_s=0.5)
    return Instance(Cluster(2, 3, 6 * 2.0**20), work, costs, fifo=fifo)


def test_the_time_limit_includes_building(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock passes the limit while the model is built: no search begins."""
    instance, found = hard(40), []
    monkeypatch.setattr(Limits, "left_s", lambda limits, share=1.0: -1.0 if found else 60.0)
    result = solve(
        instance,
        "cpsat",
        SLO,
        time_limit_s=PATIENT_S,
        on_solution=lambda s, value: found.append(value),
    )
    assert result.explanation == "the time limit was reached before the search began"
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []


def test_interruption_returns_the_best_so_far() -> None:
    """Ctrl-C comes once, with the first schedule that CP-SAT finds in its own thread."""
    instance, pressed = hard(40), threading.Event()

    def hear(schedule: Schedule, value: Value) -> None:
        if threading.current_thread() is not threading.main_thread() and not pressed.is_set():
            pressed.set()
            _thread.interrupt_main()

    result = solve(instance, "cpsat", SLO, time_limit_s=PATIENT_S, on_solution=hear)
    assert pressed.is_set()
    assert result.explanation == "interrupted"
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []


@pytest.mark.parametrize("objective", [SLO, Objective(makespan=1)])
def test_a_deterministic_limit_gives_the_same_twice(objective: Objective) -> None:
    runs = [solve(hard(14), "cpsat", objective, deterministic_limit=0.3, seed=3) for _ in range(2)]
    assert runs[0].objective == runs[1].objective
    assert runs[0].lower_bound == runs[1].lower_bound
    assert runs[0].schedule == runs[1].schedule


def test_horizons_beyond_32_bits() -> None:
    small, scale = tiny(7, "async", False), 2.0**32
    large = replace(small, tick_s=small.tick_s / scale)
    plain = Objective(makespan=1, inference_response=2)
    for one in (plain, Objective(makespan=1)):
        wanted = solve(small, "cpsat", one, time_limit_s=PATIENT_S).objective
        found = solve(large, "cpsat", one, time_limit_s=PATIENT_S)
        assert isinstance(wanted, float)
        assert (found.status, found.objective) == ("optimal", wanted)


@pytest.mark.parametrize("tasks", [0, 1])
@pytest.mark.parametrize("objective", [REGULAR, Objective(makespan=1), Objective(idle=1)])
def test_no_task_and_one_task(tasks: int, objective: Objective) -> None:
    one = flow_shop([[2, 3]]).window(np.arange(tasks))
    result = solve(one, "cpsat", objective)
    assert result.status == "optimal"
    if objective.makespan and not objective.inference_response:
        assert result.objective == 5.0 * tasks


def test_never_worse_than_the_initial_schedule() -> None:
    instance = hard(40)
    by_policy = solve(instance, "jsq", SLO)
    result = solve(instance, "cpsat", SLO, time_limit_s=0.05, initial=by_policy.schedule)
    assert isinstance(result.objective, float)
    assert isinstance(by_policy.objective, float)
    assert result.objective <= by_policy.objective
