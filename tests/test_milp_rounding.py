"""The rounding of `milp`: whole ticks by exact fractions, memory by the byte in small numbers."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_instances import flow_shop, tiny

from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.errors import UnsupportedError
from solvers.milp.memory import LARGEST, MOST_TASKS, memory_rows
from solvers.milp.rounding import due_ticks, on_grid, rounded, ticks, to_seconds

TICKS = st.sampled_from([1.0, 1e-3, 2.5e-4, 1e-6, 1 / 30])


@given(st.integers(0, 10**6), TICKS)
def test_a_whole_number_of_ticks_is_that_number(count: int, tick_s: float) -> None:
    time_s = to_seconds(np.array([count]), tick_s)
    assert on_grid(time_s, tick_s)
    for up in (False, True):
        assert ticks(time_s, tick_s, up=up).tolist() == [count]


@given(st.integers(0, 10**6), st.integers(1, 999), TICKS)
def test_between_two_ticks_the_side_is_the_one_asked_for(
    count: int, part: int, tick_s: float
) -> None:
    time_s = float((count + Fraction(part, 1000)) * Fraction(repr(tick_s)))
    inside = min(part, 1000 - part) / 1000 * tick_s > 2e-10 + 1e-3 * tick_s
    if inside:
        assert not on_grid([time_s], tick_s)
        assert ticks([time_s], tick_s, up=False).tolist() == [count]
        assert ticks([time_s], tick_s, up=True).tolist() == [count + 1]


def test_the_noise_that_is_forgiven_does_not_grow_with_time() -> None:
    for late_s in (0.0, 3600.0, 600_000.0):
        assert not on_grid([late_s + 1e-6], 1e-3)
        assert ticks([late_s + 1e-6], 1e-3, up=True).tolist() == [round(late_s * 1000) + 1]
    assert on_grid([0.1 + 0.2], 0.1)


def test_what_is_due_counts_as_the_objective_does() -> None:
    work = Workload([0, 0, 0, 1], [0.1, 0.1, 0.1, 0.1], 1, 8, slo_s=[0.2, 0.1999, np.inf, 1.0])
    costs = Costs(np.ones((1, 4, 1)), 0.0, 0.0, 0.0)
    instance = Instance(Cluster(1, 1, 1.0), work, costs, tick_s=0.1)
    assert due_ticks(instance).tolist() == [3, 2, 0, 0]


def test_horizons_beyond_the_limit_are_refused() -> None:
    for long in (2.0**51, 1e300):
        with pytest.raises(UnsupportedError, match=r"horizon is .* ticks"):
            rounded(flow_shop([[long, 1]]), bound=False)


def test_both_sides_agree_where_nothing_is_rounded() -> None:
    instance = tiny(3, "async", False)
    up, down = rounded(instance, bound=False), rounded(instance, bound=True)
    assert up.exact
    assert down.exact
    for name in ("forward", "backward", "update", "hop", "held", "room", "release"):
        assert np.array_equal(getattr(up, name), getattr(down, name))


def fit(held: list[int], chosen: tuple[int, ...], room: int) -> bool:
    return sum(held[i] for i in chosen) <= room


@given(
    st.lists(
        st.one_of(st.integers(0, 20), st.integers(0, 10**11), st.just(10**10), st.just(10**10 + 1)),
        min_size=1,
        max_size=7,
    ),
    st.one_of(st.integers(0, 40), st.integers(0, 10**11), st.sampled_from([2 * 10**10, 10**10])),
)
def test_rows_of_memory_let_through_exactly_what_fits(held: list[int], room: int) -> None:
    rows, exact = memory_rows(held, room, bound=False)
    assert exact
    alone = [i for i, h in enumerate(held) if h <= room]
    for size in range(1, len(alone) + 1):
        for chosen in combinations(alone, size):
            kept = all(sum(row.weights[i] for i in chosen) <= row.limit for row in rows)
            assert kept == fit(held, chosen, room)
    assert all(max(row.weights) <= LARGEST for row in rows)


def test_memory_of_many_tasks_is_rounded_to_the_side_asked_for() -> None:
    held = [10**10 + 3 * i for i in range(MOST_TASKS + 1)]
    for room in (4 * 10**10 + 20, 3 * 10**10):
        for bound in (False, True):
            rows, exact = memory_rows(held, room, bound=bound)
            assert not exact
            for chosen in combinations(range(len(held)), room // 10**10):
                kept = all(sum(row.weights[i] for i in chosen) <= row.limit for row in rows)
                fits = fit(held, chosen, room)
                assert kept >= fits if bound else kept <= fits
