"""The packaged spread of memory, and costs planned with quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_data import DATA, needs_data

from experiments.memory_errors import held_spread
from experiments.memory_profiles import read_memory_profile
from instances import generate
from lemix_opt.errors import FieldError
from predictors import (
    AnalyticTimeModel,
    MemorySpread,
    estimate_costs,
    load_calibration,
    load_memory_spread,
)
from predictors.model_shapes import model_shape

SHAPE = model_shape("llama-13b")
MODEL = load_calibration("llama-13b-a100").time_model()
WORK = generate(40, training_share=0.5, seed=2)


@needs_data
def test_the_packaged_spread_is_what_the_data_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    found, kept = held_spread(read_memory_profile()), load_memory_spread()
    assert found.residuals == pytest.approx(kept.residuals, abs=2e-4)
    assert (found.source, found.sha256) == (kept.source, kept.sha256)


def test_quantiles_are_safe_and_draws_come_from_the_residuals() -> None:
    spread = load_memory_spread()
    drawn = spread.draw(4000, np.random.default_rng(0))
    assert set(np.log(drawn).round(4)) <= set(spread.residuals.round(4))
    for quantile in (0.5, 0.9, 0.99):
        share = np.mean(np.log(drawn) <= spread.log_quantile(quantile) + 1e-12)
        assert share == pytest.approx(quantile, abs=0.03)
    with pytest.raises(FieldError, match="memory_quantile"):
        spread.log_quantile(0.9999)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_costs_grow_with_the_quantile(a: float, b: float) -> None:
    low, high = (
        estimate_costs(WORK, MODEL, SHAPE, stages=4, time_quantile=q, memory_quantile=q)
        for q in sorted((a, b))
    )
    assert np.all(low.forward_s <= high.forward_s)
    assert np.all(low.held_bytes <= high.held_bytes)
    assert np.array_equal(low.resident_bytes, high.resident_bytes)


def test_no_quantile_is_the_prediction_itself() -> None:
    plain = estimate_costs(WORK, MODEL, SHAPE, stages=4)
    exact = MemorySpread(np.zeros(9), "", "")
    kept = estimate_costs(WORK, MODEL, SHAPE, stages=4, memory_quantile=0.8, memory_spread=exact)
    assert plain == kept
    middle = estimate_costs(WORK, MODEL, SHAPE, stages=4, time_quantile=0.5, tick_s=None)
    free = estimate_costs(WORK, MODEL, SHAPE, stages=4, tick_s=None)
    assert middle.forward_s == pytest.approx(free.forward_s, rel=1e-3)


def test_models_without_quantiles_are_refused() -> None:
    class Fixed:
        def predict(self, X: object) -> np.ndarray:
            return np.ones(len(np.asarray(X)))

    with pytest.raises(FieldError, match="predict_quantile"):
        estimate_costs(WORK, Fixed(), SHAPE, stages=4, time_quantile=0.9)
    bare = AnalyticTimeModel(calibrate=False).fit([[1, 1], [1, 2]], [0.1, 0.2])
    with pytest.raises(FieldError, match="calibrate=True"):
        estimate_costs(WORK, bare, SHAPE, stages=4, time_quantile=0.9)
    with pytest.raises(FieldError, match="time_quantile"):
        estimate_costs(WORK, MODEL, SHAPE, stages=4, time_quantile=1.5)
