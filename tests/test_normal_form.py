"""Shifted releases and scaled weights change no answer."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import MODES, PATIENT_S, REGULAR, regular_value, tiny

from lemix_opt import Instance, Objective, Workload, validate
from lemix_opt.evaluation import objective_value
from lemix_opt.grid import on_grid
from solvers import solve
from solvers.bounds.front import lower_bound
from solvers.normal_form import NormalForm, origin_s

OFFSETS = (0.0, 0.0004, 0.25, 3600.000002, 600000.0004, 8_000_000.001)


def later(instance: Instance, offset_s: float) -> Instance:
    """Release everything later, as the decimals say."""
    exact = [
        Fraction(repr(r)) + Fraction(repr(offset_s)) for r in instance.workload.release_s.tolist()
    ]
    work = replace(instance.workload, release_s=np.array([float(r) for r in exact]))
    return replace(instance, workload=work)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(MODES),
    st.sampled_from(OFFSETS),
    st.sampled_from(["cpsat", "milp", "portfolio"]),
)
def test_answers_at_any_hour_are_those_at_zero(
    seed: int, mode: str, offset_s: float, solver: str
) -> None:
    near = tiny(seed, mode, False)
    best_s = optimum(near, lambda ends: regular_value(near, ends))
    instance = later(near, offset_s)
    found = solve(instance, solver, REGULAR, time_limit_s=PATIENT_S)
    assert found.status == "optimal"
    assert found.schedule is not None
    assert validate(instance, found.schedule) == []
    # The makespan counts from the clock's zero.
    assert found.objective == pytest.approx(best_s + offset_s, abs=1e-7, rel=1e-12)
    assert found.objective == objective_value(instance, found.schedule, REGULAR)
    assert found.lower_bound == pytest.approx(found.objective, abs=1e-6, rel=1e-6)
    assert lower_bound(instance, REGULAR).seconds <= best_s + offset_s + 1e-7


@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=9),
    st.floats(0, 8e6, allow_subnormal=False),
)
def test_whole_ticks_stay_whole_and_fractions_in_common_become_whole(
    steps: list[int], offset_s: float
) -> None:
    rest = Fraction(f"{offset_s:.6f}")
    release = sorted(float(rest + Fraction(step, 1000)) for step in steps)
    instance = replace(tiny(0, "open", False), tick_s=0.001)
    costs = instance.costs.take(np.zeros(len(steps), dtype=np.int64))
    work = Workload([0] * len(steps), release, 1, 8)
    normal = NormalForm.of(replace(instance, workload=work, costs=costs), Objective(makespan=1))
    assert on_grid(normal.instance.workload.release_s, 0.001)
    assert 0 <= normal.instance.workload.release_s.min() < 0.001
    assert origin_s(normal.instance) == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(MODES), st.sampled_from([-1000, -60, 0, 60, 900]))
def test_powers_of_two_in_the_weights_scale_the_answer_exactly(
    seed: int, mode: str, exponent: int
) -> None:
    instance = tiny(seed, mode, False)
    scaled = Objective(
        **{
            name: math.ldexp(getattr(REGULAR, name), exponent)
            for name in ("makespan", "inference_response", "training_response", "late_penalty_s")
        }
    )
    plain = solve(instance, "cpsat", REGULAR, time_limit_s=PATIENT_S)
    found = solve(instance, "cpsat", scaled, time_limit_s=PATIENT_S)
    assert found.status == plain.status == "optimal"
    assert isinstance(found.objective, float)
    assert isinstance(plain.objective, float)
    assert math.ldexp(found.objective, -exponent) == pytest.approx(plain.objective, rel=1e-9)


def test_a_start_schedule_that_stays_the_best_is_handed_back_as_it_was() -> None:
    instance = later(tiny(5, "async", False), 600000.0004)
    best = solve(instance, "cpsat", REGULAR, time_limit_s=PATIENT_S)
    again = solve(instance, "anneal", REGULAR, 0.5, initial=best.schedule)
    assert again.schedule == best.schedule
    assert again.objective == best.objective


def test_listeners_hear_schedules_of_the_given_problem() -> None:
    instance = later(tiny(5, "async", False), 3600.5)
    heard = []
    solve(instance, "cpsat", REGULAR, PATIENT_S, on_solution=lambda s, v: heard.append((s, v)))
    assert heard
    for schedule, value in heard:
        assert validate(instance, schedule) == []
        assert value == objective_value(instance, schedule, REGULAR)
