"""Time models: scikit-learn's rules, exact recovery, and their errors on real measurements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_data import DATA, needs_data
from sklearn.utils.estimator_checks import parametrize_with_checks

from experiments.profiles import read_profile
from lemix_opt.errors import FieldError, UnknownNameError
from predictors.calibration import calibrations, fit_calibration, load_calibration
from predictors.errors_by_split import mape_pct, split_errors
from predictors.intervals import conformal_factor
from predictors.memory_model import MemoryModel
from predictors.registry import PREDICTORS
from predictors.time_models import AnalyticTimeModel, BoostedTimeModel, ReferenceTimeModel


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [AnalyticTimeModel(), ReferenceTimeModel(), BoostedTimeModel(n_estimators=10), MemoryModel()]
)
def test_they_are_scikit_learn_estimators(estimator: Any, check: Any) -> None:
    check(estimator)


def grid(rng: np.random.Generator, rows: int = 60) -> np.ndarray:
    return np.column_stack([rng.integers(1, 9, rows), rng.integers(16, 2048, rows)]).astype(float)


@given(st.floats(0, 0.1), st.floats(1e-6, 1e-3), st.floats(0, 1e-6))
@settings(max_examples=40, deadline=None)
def test_the_analytic_model_finds_the_formula_again(a: float, b: float, c: float) -> None:
    X = grid(np.random.default_rng(0))
    tokens = X[:, 0] * X[:, 1]
    y = a + b * tokens + c * tokens * X[:, 1]
    fitted = AnalyticTimeModel(calibrate=False).fit(X, y)
    assert fitted.predict(X) == pytest.approx(y, rel=1e-6)
    assert np.all(fitted.coef_ >= 0)


def test_the_reference_model_is_the_published_mean() -> None:
    X, y = np.array([[1.0, 10.0], [2.0, 10.0]]), np.array([1.0, 6.0])
    assert ReferenceTimeModel(calibrate=False).fit(X, y).eta_ == pytest.approx(0.02)


def test_boosting_extrapolates_like_its_base() -> None:
    rng = np.random.default_rng(0)
    X = grid(rng)
    y = (0.01 + 1e-4 * X[:, 0] * X[:, 1]) * np.exp(0.2 * np.sin(X[:, 1] / 200))
    fitted = BoostedTimeModel(calibrate=False).fit(X, y)
    far = np.array([[8.0, 2048.0], [8.0, 20480.0], [8.0, 204800.0]])
    ratio = fitted.predict(far) / fitted.base_.predict(far)
    assert ratio[1] == pytest.approx(ratio[2])
    assert mape_pct(y, fitted.predict(X)) < mape_pct(y, fitted.base_.predict(X))


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_cover_new_points_as_often_as_asked(coverage: float) -> None:
    hits = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X = grid(rng, 80)
        y = (0.01 + 1e-4 * X[:, 0] * X[:, 1]) * np.exp(rng.normal(0, 0.1, 80))
        interval = AnalyticTimeModel().fit(X[:60], y[:60]).predict_interval(X[60:], coverage)
        hits.append(np.mean((interval[:, 0] <= y[60:]) & (y[60:] <= interval[:, 1])))
    assert np.mean(hits) == pytest.approx(coverage, abs=0.05)


def test_too_few_points_give_no_finite_interval() -> None:
    assert conformal_factor(np.zeros(5), 0.9) == np.inf
    with pytest.raises(FieldError, match="coverage"):
        conformal_factor(np.zeros(5), 0.0)


@needs_data
def test_errors_on_real_prefill_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boosted before analytic, and η·b·l² far behind, as the data's documentation reports."""
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    X, y = read_profile("muxserve_llama_a100", "llama-13b").points
    error = {
        name: {e.split: e.mape_pct for e in split_errors(PREDICTORS.create(name), X, y, 128, 8192)}
        for name in PREDICTORS
    }
    assert error["boosted"]["random fifth"] < error["analytic"]["random fifth"] < 10
    assert error["analytic"]["length > 128"] < 11
    assert error["reference"]["length > 128"] > 100


@needs_data
@pytest.mark.parametrize("name", sorted(calibrations()))
def test_packaged_calibrations_come_from_the_data(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    said = load_calibration(name)
    profile = read_profile(said.source.split(":")[0], said.model, said.gpu, said.gpus)
    longest, most = (float(s.split("> ")[1]) for s in list(said.mape_pct)[1:])
    X, y = profile.points
    again = fit_calibration(
        name,
        X,
        y,
        model=said.model,
        gpu=said.gpu,
        gpus=said.gpus,
        longest=longest,
        most_tokens=most,
        source=said.source,
        sha256=profile.sha256,
    )
    assert again.time_model().coef_ == pytest.approx(said.time_model().coef_, rel=1e-4)
    assert again.mape_pct == pytest.approx(said.mape_pct, abs=0.02)
    assert (again.rows, again.sha256) == (said.rows, said.sha256)


def test_an_unknown_calibration_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'llama-13b-a100'"):
        load_calibration("lama-13b-a100")
