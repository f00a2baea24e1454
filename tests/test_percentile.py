"""The one percentile: values worked out by hand, and that nothing shown takes another."""

from __future__ import annotations

import re
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest

from lemix_opt.percentile import percentile

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([15, 20, 35, 40, 50], 5, 15),
        ([15, 20, 35, 40, 50], 30, 20),
        ([15, 20, 35, 40, 50], 40, 20),
        ([15, 20, 35, 40, 50], 50, 35),
        ([15, 20, 35, 40, 50], 100, 50),
        ([15, 20, 35, 40, 50], 0, 15),
        ([50, 15, 40, 20, 35], 41, 35),
        ([3, 6, 7, 8], 50, 6),
        ([3, 6, 7, 8], 50.1, 7),
        ([1, inf, 2, inf], 50, 2),
        ([1, inf, 2, inf], 75, inf),
        ([2.5], 1, 2.5),
    ],
)
def test_values_by_hand(values: list[float], q: float, expected: float) -> None:
    assert percentile(values, q) == expected


@pytest.mark.parametrize("size", [1, 2, 20, 42, 99, 100, 101, 1000])
@pytest.mark.parametrize("q", [0.1, 1, 5, 7, 50, 95, 99, 99.9])
def test_it_is_the_least_value_with_that_share_at_or_below(size: int, q: float) -> None:
    values = np.random.default_rng(size).permutation(np.arange(1.0, size + 1))
    found = percentile(values, q)
    # Of 1, 2, ..., n exactly k lie at or below k; thousandths keep the comparison exact.
    assert round(1000 * found) * 100 >= round(1000 * q) * size
    assert found == 1 or round(1000 * (found - 1)) * 100 < round(1000 * q) * size


def test_nothing_and_what_is_not_known_have_none() -> None:
    assert isnan(percentile([], 50))
    assert isnan(percentile([1.0, nan], 50))
    with pytest.raises(ValueError, match="0 to 100"):
        percentile([1.0], 101)


@pytest.mark.parametrize("room", ["lemix_opt", "experiments"])
def test_metrics_take_no_other_percentile(room: str) -> None:
    other = re.compile(r"np\.(nan)?(percentile|quantile)\(|median\([^)]*response|statistics\.")
    # The cut of a split of measurements is no metric.
    allowed = {"hop_profiles.py"}
    found = [
        f"{file.name}: {line.strip()}"
        for file in sorted((ROOT / room).rglob("*.py"))
        if file.name not in allowed
        for line in file.read_text(encoding="utf-8").splitlines()
        if other.search(line)
    ]
    assert found == []
