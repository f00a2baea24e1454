"""Online correction: it finds a factor, follows a drift, and one outlier does not carry it away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemix_opt.errors import FieldError
from predictors.online import OnlineCorrection
from predictors.transfer import online_errors


@given(st.floats(0.7, 1.5))
def test_a_constant_factor_is_found(factor: float) -> None:
    correction = OnlineCorrection(drift_std=0.0)
    for _ in range(200):
        correction.observe("g", 2.0, 2.0 * factor)
    assert correction.factor("g") == pytest.approx(factor, rel=0.01)
    assert correction.factor("other") == 1
    assert correction.std("g") < 0.01 < correction.std("other")


def test_without_drift_it_is_the_mean_that_leans_on_no_correction() -> None:
    correction = OnlineCorrection(prior_std=0.1, noise_std=0.1, drift_std=0.0)
    logs = [0.1, 0.2, 0.0]
    for value in logs:
        correction.observe("g", 1.0, float(np.exp(value)))
    assert np.log(correction.factor("g")) == pytest.approx(sum(logs) / (len(logs) + 1))


def test_it_follows_a_drift_and_an_outlier_passes() -> None:
    correction = OnlineCorrection()
    for step in range(300):
        correction.observe("g", 1.0, 1 + step / 600)
    assert correction.factor("g") == pytest.approx(1.5, rel=0.05)
    correction.observe("g", 1.0, 1e6)
    assert correction.factor("g") < 1.6


def test_errors_fall_with_executions() -> None:
    rng = np.random.default_rng(0)
    took = 1.4 * np.exp(rng.normal(0, 0.02, 200))
    first, some, many = online_errors(np.ones(200), took, ["g"] * 200, (1, 5), OnlineCorrection())
    assert first > 20
    assert some < first
    assert many < 3


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(bad: float) -> None:
    with pytest.raises(FieldError, match="predicted_s"):
        OnlineCorrection().observe("g", 1.0, bad)
