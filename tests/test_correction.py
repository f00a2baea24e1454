"""Online correction: it finds factors, leans on wider groups, follows a drift, outliers pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemix_opt.correction import OnlineCorrection
from lemix_opt.errors import FieldError
from predictors.transfer import online_errors


@given(st.floats(0.5, 2.0))
def test_a_constant_factor_is_found(factor: float) -> None:
    correction = OnlineCorrection(drift_std=0.0)
    for _ in range(200):
        correction.observe(("g", 1), 2.0, 2.0 * factor)
    assert float(correction.correct(("g", 1), 2.0)) == pytest.approx(2 * factor, rel=0.01)
    assert correction.std(("g", 1), 2.0) < 0.02 < correction.std(("other", 1), 2.0)


def test_it_is_the_regression_that_leans_on_the_priors() -> None:
    """Against the normal equations of all executions at once."""
    correction = OnlineCorrection(0.2, 0.1, 0.05, 0.0)
    groups = [("a",), ("b",), ("a",), ("a",), ("b",)]
    told = np.array([1.0, 2.0, 3.0, 0.5, 1.0])
    logs = np.array([0.1, 0.2, 0.0, 0.1, 0.12])
    for group, predicted, value in zip(groups, told, logs, strict=True):
        correction.observe(group, predicted, predicted * float(np.exp(value)))
    size = np.log(told) - np.log(told[0])
    in_a = np.array([group == ("a",) for group in groups], dtype=float)
    rows = np.column_stack([np.ones(5), size, in_a, in_a * size, 1 - in_a, (1 - in_a) * size])
    prior = np.diag(np.tile([0.2, 0.1], 3) ** -2.0)
    found = np.linalg.solve(prior + rows.T @ rows / 0.05**2, rows.T @ logs / 0.05**2)
    for group, at in ((("a",), 2), (("b",), 4)):
        for predicted in (1.0, 2.0):
            x = np.log(predicted)
            expected = found[0] + found[at] + x * (found[1] + found[at + 1])
            assert np.log(correction.correct(group, predicted) / predicted) == pytest.approx(
                expected
            )


def test_a_group_that_has_not_run_leans_on_its_siblings() -> None:
    correction = OnlineCorrection()
    for _ in range(50):
        correction.observe(("h100", "forward"), 1.0, 0.5)
    sibling, stranger, own = (
        float(correction.correct(group, 1.0))
        for group in (("h100", "backward"), ("a100", "forward"), ("h100", "forward"))
    )
    assert own == pytest.approx(0.5, rel=0.02)
    assert own < sibling < stranger < 1


def test_what_bends_with_size_is_followed_and_not_beyond_what_was_seen() -> None:
    rng = np.random.default_rng(1)
    correction = OnlineCorrection()
    for told in np.exp(rng.uniform(-2, 2, 400)):
        correction.observe(("g",), told, told * told**0.2)
    inside = float(correction.correct(("g",), 4.0)) / 4
    assert inside == pytest.approx(4**0.2, rel=0.05)
    far, edge = (float(correction.correct(("g",), x)) / x for x in (1e6, np.exp(2.0)))
    assert far == pytest.approx(edge, rel=0.05)


def test_it_follows_a_drift_and_an_outlier_passes() -> None:
    correction = OnlineCorrection(drift_std=0.01)
    for step in range(300):
        correction.observe(("g",), 1.0, 1 + step / 600)
    assert float(correction.correct(("g",), 1.0)) == pytest.approx(1.5, rel=0.08)
    before = float(correction.correct(("g",), 1.0))
    correction.observe(("g",), 1.0, 1e6)
    assert float(correction.correct(("g",), 1.0)) < 1.15 * before


def test_errors_fall_with_executions() -> None:
    rng = np.random.default_rng(0)
    took = 1.4 * np.exp(rng.normal(0, 0.02, 200))
    groups = [("g",)] * 200
    first, some, many = online_errors(np.ones(200), took, groups, (1, 5), OnlineCorrection())
    assert first > 20
    assert some < first
    assert many < 3


def test_nothing_is_zero_and_right_predictions_stay_exactly() -> None:
    correction = OnlineCorrection()
    for told in (1.0, 0.3, 7.0):
        correction.observe(("g",), told, told)
    asked = np.array([0.0, 0.1, 5.0])
    assert correction.correct(("g",), asked).tolist() == asked.tolist()
    assert correction.correct(("new",), asked).tolist() == asked.tolist()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(bad: float) -> None:
    with pytest.raises(FieldError, match="predicted_s"):
        OnlineCorrection().observe(("g",), 1.0, bad)
