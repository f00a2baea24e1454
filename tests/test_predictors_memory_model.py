"""The memory model finds factors and phases again, and its quantiles are safe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemix_opt.errors import FieldError
from predictors import MemoryModel, load_model, save_model

PHASES = ((0, 1), (0, 2))


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1e9, 5e10, (rows, 3))


def test_without_a_prior_constant_and_factors_come_back() -> None:
    X = drawn(40)[:, :2]
    y = 2e9 + 1.2 * X[:, 0] + 0.5 * X[:, 1]
    fitted = MemoryModel().fit(X, y)
    assert fitted.constant_ == pytest.approx(2e9)
    assert fitted.factor_ == pytest.approx([1.2, 0.5])
    assert np.all(fitted.predict_interval(X)[:, 1] >= y * (1 - 1e-6))


@given(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_factors_come_back_through_the_largest_phase(factors: list[float]) -> None:
    X = drawn(200)
    own = X * factors
    y = own[:, 0] + np.maximum(own[:, 1], own[:, 2])
    fitted = MemoryModel(PHASES, prior_runs=1e-6, calibrate=False).fit(X, y)
    assert fitted.factor_ == pytest.approx(factors, rel=1e-3)


def test_a_part_that_was_never_there_keeps_its_formula() -> None:
    X = drawn(60)
    X[:, 2] = 0
    fitted = MemoryModel(PHASES, prior_runs=1.0, calibrate=False).fit(X, X[:, 0] + 2 * X[:, 1])
    assert fitted.factor_[1] == pytest.approx(2, rel=0.05)
    assert fitted.factor_[2] == pytest.approx(1)


def test_boosting_is_kept_only_if_it_helps_groups_left_out() -> None:
    X = drawn(120)
    groups = np.arange(120) % 6
    clean = X[:, 0] + np.maximum(X[:, 1], X[:, 2])
    noise = np.exp(np.random.default_rng(1).normal(0, 0.1, 120))
    # A bend that all groups share can be learned from the others, noise cannot.
    bent = clean * np.where(X[:, 0] > 2.5e10, 1.4, 0.8)
    shares = [
        MemoryModel(PHASES, 1.0, None, calibrate=False).fit(X, y, groups).share_
        for y in (clean * noise, bent)
    ]
    assert shares == [0.0, 1.0]


def test_quantiles_cover_and_groups_have_their_own() -> None:
    rng = np.random.default_rng(0)
    X = drawn(1200, 3)
    groups = np.array(["calm", "wild"])[np.arange(1200) % 2]
    spread = np.where(groups == "wild", 0.3, 0.02)
    y = X.sum(axis=1) * np.exp(rng.normal(0, 1, 1200) * spread)
    fit_on = np.arange(1200) < 800
    fitted = MemoryModel(prior_runs=1.0).fit(X[fit_on], y[fit_on], groups[fit_on])
    held, named = X[~fit_on], groups[~fit_on]
    safe = fitted.predict_quantile(held, 0.9, named)
    low, high = fitted.predict_interval(held, 0.9, named).T
    for name in ("calm", "wild"):
        own = named == name
        assert 0.83 < np.mean(y[~fit_on][own] <= safe[own]) < 0.97
        assert 0.83 < np.mean((low <= y[~fit_on])[own] & (y[~fit_on] <= high)[own]) < 0.97
    order = [fitted.predict_quantile(held, q) for q in (0.5, 0.9, 0.99)]
    assert np.all(order[0] < order[1])
    assert np.all(order[1] < order[2])
    assert np.all(np.isinf(fitted.predict_quantile(held, 0.9999)))


@pytest.fixture(scope="module")
def two_groups() -> MemoryModel:
    """Runs of two groups, of 10 to 20 GB for each part."""
    X = drawn(160) / 5 + 1e10
    y = X.sum(axis=1) * np.exp(np.random.default_rng(4).normal(0, 0.05, 160))
    return MemoryModel(PHASES, 1.0).fit(X, y, np.array(["a", "b"])[np.arange(160) % 2])


@given(
    st.lists(st.floats(0, 3), min_size=3, max_size=3),
    st.floats(1, 4),
    st.sampled_from(["a", "b", "new"]),
)
@settings(max_examples=60, deadline=None)
def test_intervals_and_quantiles_never_narrow_with_distance(
    two_groups: MemoryModel, log_sizes: list[float], factor: float, group: str
) -> None:
    model, steps = two_groups, np.linspace(0, 1, 9)[:, None]
    X = 1.5e10 * np.exp(steps * np.array(log_sizes)) * factor**steps
    groups = np.full(len(X), group)
    width = np.log(model.predict_interval(X, 0.9, groups)[:, 1] / model.predict(X))
    upper = model.predict_quantile(X, 0.9, groups) / model.predict(X)
    assert np.all(np.diff(width) >= -1e-12)
    assert np.all(np.diff(upper) >= -1e-12)


def test_a_part_that_was_never_there_counts_by_its_share_of_the_phase() -> None:
    X = drawn(80) / 5 + 1e10
    X[:, 2] = 0
    y = X.sum(axis=1) * np.exp(np.random.default_rng(5).normal(0, 0.05, 80))
    model = MemoryModel(PHASES, 1.0).fit(X, y)
    inside = X[:1]
    little, much = (inside + np.array([[0, 0, extra]]) for extra in (1e6, 1e12))
    width = [
        float(np.log(model.predict_interval(x)[0, 1] / model.predict(x)[0]))
        for x in (inside, little, much)
    ]
    assert width[1] == pytest.approx(width[0], rel=0.01)
    assert width[2] > 1.5 * width[0]
    assert model.provenance(np.vstack([inside, little])).tolist() == [0, 2]


def test_without_a_group_a_run_is_as_unsure_as_of_a_new_one(two_groups: MemoryModel) -> None:
    X = drawn(5) / 5 + 1e10
    said = two_groups.predict_interval(X, 0.9, np.full(5, "new"))
    assert np.array_equal(two_groups.predict_interval(X), said)


def test_bad_use_is_said() -> None:
    X = drawn(10)
    with pytest.raises(FieldError, match="groups"):
        MemoryModel().fit(X, X[:, 0], np.zeros(9))
    with pytest.raises(FieldError, match="3 columns"):
        MemoryModel(((0, 5),)).fit(X, X[:, 0])
    with pytest.raises(FieldError, match="boost"):
        MemoryModel(boost=2.0).fit(X, X[:, 0])


def test_it_can_be_saved_with_its_groups(tmp_path: Path) -> None:
    X = drawn(80)
    groups = np.array([f"model {at}" for at in range(10)])[np.arange(80) % 10]
    fitted = MemoryModel(PHASES, 1.0, 1.0).fit(X, X.sum(axis=1), groups)
    save_model(fitted, tmp_path / "m.skops", "0" * 64)
    found = load_model(tmp_path / "m.skops").model
    assert found.predict_quantile(X, 0.8, groups).tolist() == (
        fitted.predict_quantile(X, 0.8, groups).tolist()
    )
