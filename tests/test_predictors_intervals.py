"""Intervals: the rank of the textbook, coverage in groups, and what few residuals allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemix_opt.errors import FieldError
from predictors.hops import HopModel
from predictors.intervals import GroupedResiduals, conformal_factor, conformal_quantile


@given(st.lists(st.floats(-5, 5), max_size=40), st.floats(0.01, 1))
def test_the_quantile_is_the_rank_of_the_textbook(values: list[float], level: float) -> None:
    rank = int(np.ceil((len(values) + 1) * level * (1 - 1e-12)))
    expected = sorted(values)[rank - 1] if rank <= len(values) else np.inf
    assert conformal_quantile(np.array(values), level) == expected


@given(st.lists(st.floats(0, 5), min_size=1, max_size=20), st.floats(0.01, 1))
def test_weights_count_by_their_shares(values: list[float], level: float) -> None:
    plain, doubled = np.array(values), np.full(len(values), 2.0)
    assert conformal_quantile(plain, level, doubled) == conformal_quantile(plain, level)
    # A thousand further values that hardly weigh anything change nothing but the rounding.
    more = np.concatenate([plain, np.full(1000, 9.0)])
    weights = np.concatenate([np.ones(plain.size), np.full(1000, 1e-15)])
    assert conformal_quantile(more, level, weights) in {conformal_quantile(plain, level), 9.0}


def test_groups_of_different_noise_are_each_covered() -> None:
    rng = np.random.default_rng(0)
    spread = {"quiet": 0.01, "loud": 0.3, "rare": 0.1}
    rows = {"quiet": 900, "loud": 300, "rare": 40}
    groups = np.repeat(list(rows), list(rows.values()))
    residuals = np.concatenate([rng.normal(0, spread[g], n) for g, n in rows.items()])
    scores = GroupedResiduals(residuals, groups)
    for group in rows:
        new = rng.normal(0, spread[group], 20_000)
        radius = scores.log_radius(0.9, np.array([group]))[0]
        assert np.mean(np.abs(new) <= radius) == pytest.approx(0.9, abs=0.05)
        upper = scores.log_quantile(0.9, np.array([group]))[0]
        assert np.mean(new <= upper) == pytest.approx(0.9, abs=0.05)
    pooled = np.mean(np.abs(rng.normal(0, 0.3, 20_000)) <= conformal_quantile(abs(residuals), 0.9))
    assert pooled < 0.8, "without groups the loud one would not be covered"


def test_a_group_without_residuals_has_the_pooled_ones() -> None:
    residuals = np.random.default_rng(1).normal(0, 0.1, 200)
    scores = GroupedResiduals(residuals, np.zeros(200, dtype=int))
    known, new = scores.log_radius(0.9, np.array([0, 7]))
    assert known == new == conformal_quantile(np.abs(residuals), 0.9)


def test_one_group_alone_is_plain_conformal() -> None:
    residuals = np.linspace(-1, 1, 19)
    scores = GroupedResiduals(residuals, np.zeros(19))
    assert scores.log_radius(0.9, np.zeros(2)).tolist() == [abs(residuals[0])] * 2
    assert scores.log_quantile(0.9, np.zeros(1)).tolist() == [residuals[17]]


def test_too_few_residuals_give_no_finite_interval() -> None:
    assert conformal_factor(np.zeros(5), 0.9) == np.inf
    assert GroupedResiduals(np.zeros(5), np.zeros(5)).log_radius(0.9, np.zeros(1)) == [np.inf]
    for bad in (0.0, 1.5, float("nan")):
        with pytest.raises(FieldError, match=r"coverage|level"):
            conformal_factor(np.zeros(5), bad)
    with pytest.raises(FieldError, match=r"groups: shape .4.*one per residual"):
        GroupedResiduals(np.zeros(5), np.zeros(4))


def test_a_models_quantile_lies_between_its_bounds() -> None:
    rng = np.random.default_rng(2)
    X = rng.uniform(1e6, 1e8, (200, 1))
    y = (1e-3 + 1e-9 * X[:, 0]) * np.exp(rng.normal(0, 0.1, 200))
    model = HopModel().fit(X, y)
    low, high = model.predict_interval(X, 0.9).T
    middle, upper = model.predict_quantile(X, 0.5), model.predict_quantile(X, 0.9)
    assert np.all((low < middle) & (middle < upper) & (upper < high))
    assert np.mean(y <= upper) == pytest.approx(0.9, abs=0.03)
