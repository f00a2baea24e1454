"""Closeness of values: zero, tiny and huge ones by one rule."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_instances import MODES, tiny

from lemix_opt import Objective
from lemix_opt.errors import FieldError
from lemix_opt.resolution import PROOF_TOLERANCE, Resolution

TERMS = ("makespan", "inference_response", "training_response", "idle", "node_time")


@given(
    st.integers(0, 1000),
    st.sampled_from(MODES),
    st.sampled_from(TERMS),
    st.integers(-280, 280),
    st.floats(1e-3, 1e3),
)
def test_scaling_an_objective_changes_no_verdict(
    seed: int, mode: str, term: str, exponent: int, ratio: float
) -> None:
    instance, scale = tiny(seed, mode, False), math.ldexp(1.0, exponent)
    plain = Resolution.of(instance, Objective(**{term: 1.0}))
    scaled = Resolution.of(instance, Objective(**{term: scale}))
    value, bound = 7.25, 7.25 - ratio * PROOF_TOLERANCE * 7.25
    assert scaled.proven(value * scale, bound * scale) == plain.proven(value, bound)
    assert scaled.gap(value * scale, bound * scale) == pytest.approx(plain.gap(value, bound))


@given(st.lists(st.floats(-1e-15, 1e-15), min_size=2, max_size=2))
def test_noise_decides_nothing_and_later_levels_do(noise: list[float]) -> None:
    objective = Objective(idle=1, makespan=1, lexicographic=("idle", "makespan"))
    resolution = Resolution.of(tiny(3, "open", False), objective)
    assert resolution.better((noise[0], 1.0), (noise[1], 2.0))
    assert not resolution.better((noise[0], 2.0), (noise[1], 1.0))
    assert resolution.proven(noise[0], noise[1])
    assert resolution.gap(noise[0], noise[1]) == 0.0


def test_one_tick_is_never_noise() -> None:
    instance = tiny(1, "open", False)
    resolution = Resolution.of(instance, Objective(makespan=1))
    assert not resolution.proven(instance.tick_s, 0.0)
    assert resolution.better((0.0,), (instance.tick_s,))


def test_infinite_values_are_worse_than_all_others() -> None:
    resolution = Resolution((1e-9,))
    assert resolution.better((1e200,), (math.inf,))
    assert not resolution.better((math.inf,), (math.inf,))


def test_values_that_overflow_are_refused() -> None:
    instance = tiny(1, "open", False)
    heavy = replace(
        instance, workload=replace(instance.workload, weight=np.full(instance.tasks, 1e308))
    )
    with pytest.raises(FieldError, match="not finite"):
        Resolution.of(heavy, Objective(inference_response=10, training_response=10))
