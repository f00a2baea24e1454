"""Ticks: rounding directions and noise around whole numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemix_opt.errors import FieldError
from lemix_opt.grid import on_grid, ticks_down, ticks_up, to_seconds

ticks = st.integers(0, 10**9)


@given(ticks, st.sampled_from([0.001, 0.0001, 0.005, 0.1]))
def test_whole_ticks_survive_floating_point_noise(count: int, tick_s: float) -> None:
    seconds = to_seconds(count, tick_s)
    assert int(ticks_up(seconds, tick_s)) == int(ticks_down(seconds, tick_s)) == count
    assert on_grid(seconds, tick_s)


@given(st.floats(0, 1e6), st.sampled_from([0.001, 0.003, 0.5]))
def test_down_and_up_bracket_the_time(seconds: float, tick_s: float) -> None:
    low, high = int(ticks_down(seconds, tick_s)), int(ticks_up(seconds, tick_s))
    assert 0 <= high - low <= 1
    slack = 1e-9 * max(seconds, tick_s) * 2
    assert low * tick_s <= seconds + slack
    assert high * tick_s >= seconds - slack


def test_fractions_round_up_or_down() -> None:
    assert int(ticks_up(0.0025, 0.001)) == 3
    assert int(ticks_down(0.0025, 0.001)) == 2
    assert not on_grid(0.0025, 0.001)


def test_times_beyond_the_grid_are_refused() -> None:
    with pytest.raises(FieldError, match="2\\^53"):
        ticks_up(1e16, 0.001)
