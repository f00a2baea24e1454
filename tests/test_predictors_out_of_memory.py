"""Limits on predicted peaks, and exact intervals of counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lemix_opt.errors import FieldError
from predictors.out_of_memory import exact_share, fit_limit


@given(st.integers(0, 60), st.integers(0, 60))
def test_intervals_are_those_of_scipy(hits: int, more: int) -> None:
    of = hits + more
    found = exact_share(hits, of)
    if of:
        want = binomtest(hits, of).proportion_ci(0.95, "exact")
        assert (found.low, found.high) == pytest.approx((want.low, want.high), abs=1e-9)
    else:
        assert (found.low, found.high) == (0, 1)


@given(
    st.lists(st.floats(1, 100), min_size=1, max_size=40),
    st.lists(st.floats(1, 100), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_the_limit_is_the_lowest_that_keeps_its_promise(
    failed: list[float], ran: list[float], allowed: float
) -> None:
    predicted = np.array([*failed, *ran])
    fails = np.arange(predicted.size) < len(failed)
    limit = fit_limit(predicted, fails, allowed)
    alarms = np.mean(np.array(ran) > limit)
    assert alarms <= allowed
    lower = [v for v in predicted if v < limit]
    caught = np.sum(np.array(failed) > limit)
    for other in lower:
        if np.mean(np.array(ran) > other) <= allowed:
            assert np.sum(np.array(failed) > other) <= caught


def test_where_nothing_failed_nothing_is_said_to_fail() -> None:
    assert fit_limit(np.array([1.0, 2.0]), np.array([False, False])) == float("inf")


def test_more_hits_than_rows_are_refused() -> None:
    with pytest.raises(FieldError, match="hits: value 3; expected at most 2"):
        exact_share(3, 2)
