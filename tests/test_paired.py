"""Paired differences: the t interval, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.paired import paired
from lemix_opt.errors import FieldError


def test_the_interval_is_the_textbook_one() -> None:
    found = paired(np.array([3.0, 5.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    # Differences 2, 3, 1: mean 2, deviation 1; the 97.5 % quantile of t with 2 degrees is 4.3027.
    assert found.mean == pytest.approx(2.0)
    assert found.high == pytest.approx(2 + 4.30265 / np.sqrt(3), rel=1e-5)
    assert found.low == pytest.approx(2 - 4.30265 / np.sqrt(3), rel=1e-5)


def test_it_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        base = rng.normal(0, 5, 10)
        found = paired(base + rng.normal(1, 1, 10), base)
        hits += found.low <= 1 <= found.high
    assert 0.935 < hits / 2000 < 0.965


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]]])
def test_what_is_no_pair_is_refused(values: list[float]) -> None:
    with pytest.raises(FieldError, match="equal length"):
        paired(
            np.array(values),
            np.array([1.0, 2.0]) if np.ndim(values) == 1 and len(values) > 1 else np.array(values),
        )
