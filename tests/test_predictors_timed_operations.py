"""Times of several operations: a shape is shared where the data say so, and scatter is kept."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.registry import PREDICTORS
from predictors.timed_operations import OperationTimes, Scatter, Timed, fit_times


def timed(constants: tuple[float, ...], noise: float, seed: int = 0, rows: int = 24) -> Timed:
    """Operations of seconds constant + tokens, each a multiple of the first."""
    rng = np.random.default_rng(seed)
    length = rng.integers(8, 200, rows).astype(float)
    parts = [
        (g + 1) * (constant + length) * np.exp(rng.normal(0, noise, rows))
        for g, constant in enumerate(constants)
    ]
    shapes = np.tile(np.column_stack([np.ones(rows), length]), (len(constants), 1))
    number = np.repeat(np.arange(len(constants)), rows)
    return Timed(shapes, np.concatenate(parts), number)


def test_a_shape_is_shared_where_it_is_one_and_times_scatter() -> None:
    assert fit_times("analytic", timed((20.0,) * 4, 0.3))[0].shared


def test_a_shape_is_not_shared_where_it_is_not_one() -> None:
    assert not fit_times("analytic", timed((1.0, 500.0), 0.02))[0].shared


@pytest.mark.parametrize("shared", [False, True])
def test_every_operation_has_its_own_sum(shared: bool) -> None:
    data = timed((20.0, 50.0), 0.4)
    found = OperationTimes("analytic", data, shared=shared).predict(data.shapes, data.operation)
    for g in (0, 1):
        own = data.operation == g
        assert found[own].sum() == pytest.approx(data.seconds[own].sum())


def test_the_published_model_keeps_its_scale() -> None:
    data = timed((20.0,), 0.1)
    found, _ = fit_times("reference", data)
    own = PREDICTORS.create("reference").fit(data.shapes, data.seconds)
    np.testing.assert_array_equal(
        found.predict(data.shapes, data.operation), own.predict(data.shapes)
    )


def test_an_operation_that_was_not_seen_is_not_known() -> None:
    data = timed((20.0,), 0.1)
    found = OperationTimes("analytic", data, shared=False)
    assert np.isnan(found.predict(data.shapes[:2], np.array([0, 1]))).tolist() == [False, True]


def test_draws_keep_what_lies_together_in_time() -> None:
    slow = np.repeat([1.0, -1.0], 50)
    scatter = Scatter(slow, np.zeros(1), np.ones(1))
    drawn = np.log(scatter.draw(np.zeros(4000, dtype=int), np.random.default_rng(0)))
    # Blocks of 10: a value has its neighbour's sign in all but about one of ten places.
    assert np.mean(drawn[1:] == drawn[:-1]) > 0.9
    assert abs(drawn.mean()) < 0.15


def test_an_operation_that_was_never_timed_does_not_scatter() -> None:
    """A backward that took no time in the trace is not fitted, and asked about all the same."""
    scatter = Scatter(np.array([1.0, -1.0]), np.zeros(2), np.ones(2))
    assert np.isfinite(scatter.draw(np.array([0, 5, 1]), np.random.default_rng(0))).all()
