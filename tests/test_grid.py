"""Ticks: rounding directions and noise around whole numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemix_opt.errors import FieldError
from lemix_opt.grid import NOISE_S, on_grid, ticks_down, ticks_up, to_seconds


@given(st.integers(0, 10**9), st.sampled_from([0.001, 0.0001, 0.005, 0.1, 1e-6]))
def test_whole_ticks_survive_floating_point_noise(count: int, tick_s: float) -> None:
    count = min(count, int(1e5 / tick_s))
    seconds = to_seconds(count, tick_s)
    assert int(ticks_up(seconds, tick_s)) == int(ticks_down(seconds, tick_s)) == count
    assert on_grid(seconds, tick_s)


@given(st.floats(0, 1e6), st.sampled_from([0.001, 0.003, 0.5]))
def test_down_and_up_bracket_the_time(seconds: float, tick_s: float) -> None:
    low, high = int(ticks_down(seconds, tick_s)), int(ticks_up(seconds, tick_s))
    assert 0 <= high - low <= 1
    exact, tick = Fraction(repr(seconds)), Fraction(repr(tick_s))
    assert low * tick <= exact + Fraction(NOISE_S)
    assert high * tick >= exact - Fraction(NOISE_S)


@given(st.integers(0, 2**22 * 1000 - 1), st.sampled_from([1, 4, 6]), st.integers(1, 999_999))
def test_decimals_are_rounded_exactly_at_any_hour(ms: int, digits: int, below: int) -> None:
    part = below % 10**digits
    text = f"{ms // 1000}.{ms % 1000:03d}{part:0{digits}d}"
    assert int(ticks_down(float(text), 0.001)) == ms
    assert int(ticks_up(float(text), 0.001)) == ms + (part > 0)
    assert on_grid(float(text), 0.001) == (part == 0)


def test_fractions_round_up_or_down() -> None:
    assert int(ticks_up(0.0025, 0.001)) == 3
    assert int(ticks_down(0.0025, 0.001)) == 2
    assert not on_grid(0.0025, 0.001)


def test_times_beyond_the_grid_are_refused() -> None:
    with pytest.raises(FieldError, match="2\\^53"):
        ticks_up(1e16, 0.001)
