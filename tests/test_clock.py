"""Time stamps become seconds since the first one without losing a digit."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemix_opt import Cluster, Costs, Instance, Objective, Workload, validate
from lemix_opt.clock import UNITS_NS, nanoseconds, since_first
from lemix_opt.errors import FieldError
from solvers import solve

TEN_YEARS_NS = 10 * 366 * 86400 * 10**9
EPOCH_NS = 1_725_000_000 * 10**9

moments = st.lists(st.integers(0, 10**13), min_size=1, max_size=8)
units = st.sampled_from(sorted(UNITS_NS))


def text_of(moment_ns: int, unit: str) -> str:
    return f"{Decimal(moment_ns) / UNITS_NS[unit]:f}"


@given(moments, st.integers(0, TEN_YEARS_NS), units)
def test_decimal_text_at_any_offset_gives_the_same_seconds(
    since_ns: list[int], offset_ns: int, unit: str
) -> None:
    stamps = [text_of(EPOCH_NS + offset_ns + moment, unit) for moment in since_ns]
    seconds, origin_ns = since_first(stamps, unit)
    assert origin_ns == EPOCH_NS + offset_ns + min(since_ns)
    assert seconds.tolist() == [(moment - min(since_ns)) / 10**9 for moment in since_ns]


def test_digits_below_a_nanosecond_round_half_to_even() -> None:
    assert nanoseconds("1.0000000005") == 10**9
    assert nanoseconds("1.0000000015") == 10**9 + 2
    assert nanoseconds(Decimal("1e-9")) == 1


@pytest.mark.parametrize("stamp", ["", "nan", "inf", "1_0", "12:00", "٣", "1e999", "9" * 50, 1.5])
def test_what_is_no_exact_number_is_refused(stamp: str) -> None:
    with pytest.raises(FieldError, match="decimal number"):
        nanoseconds(stamp)


def test_a_float_release_that_has_lost_its_digits_is_refused_with_the_way_out() -> None:
    with pytest.raises(FieldError, match=r"release_s\[1\].*97 days.*since_first"):
        Workload([0, 0], [0.0, 1725000000.13], 1, 8)
    Workload([0], [np.nextafter(2.0**23, 0)], 1, 8)
    with pytest.raises(FieldError, match="since_first"):
        Workload([0], [2.0**23], 1, 8)


@pytest.mark.parametrize("origin", [1.5, "0", None, True])
def test_the_origin_is_a_whole_number(origin: object) -> None:
    with pytest.raises(FieldError, match="origin_ns"):
        Workload([0], [0.0], 1, 8, origin_ns=origin)  # type: ignore[arg-type]


def test_the_origin_goes_with_the_tasks() -> None:
    work = Workload([0, 0], [1.0, 2.5], 1, 8, origin_ns=EPOCH_NS)
    assert work.take(np.array([1])).origin_ns == EPOCH_NS
    assert work.take(np.array([1]), shift_s=2.5).origin_ns == EPOCH_NS + 2_500_000_000


@pytest.mark.parametrize("offset", ["0", "3600.000002", "600000.0004", "1725000000.1"])
def test_an_optimum_does_not_depend_on_the_clock(offset: str) -> None:
    stamps = [str(Decimal(offset) + Decimal(step)) for step in ("0", "0.03", "0.2")]
    release_s, origin_ns = since_first(stamps)
    work = Workload([0] * 3, release_s, 1, 8, origin_ns=origin_ns)
    costs = Costs(np.full((1, 3, 2), 0.05), 0.0, 0.0, 0.0)
    instance = Instance(Cluster(1, 2, 1.0), work, costs)
    result = solve(instance, "cpsat", Objective(inference_response=1), time_limit_s=60)
    assert result.status == "optimal"
    assert result.objective == pytest.approx(0.1 + 0.12 + 0.1, rel=1e-12)
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []
    assert Fraction(instance.workload.origin_ns, 10**9) == Fraction(stamps[0])
