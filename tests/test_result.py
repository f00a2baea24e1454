"""Results: what is derived from their trajectory."""

from __future__ import annotations

import math

import pytest

from lemix_opt.result import Result


def test_primal_integral_weighs_time_by_distance() -> None:
    """One second without a schedule, two at twice the aim, one at the aim."""
    trajectory = ((1.0, 8.0, None), (2.0, 8.0, 3.0), (3.0, 4.0, 3.0))
    found = Result("feasible", None, 4.0, 3.0, 0.25, trajectory, runtime_s=4.0)
    assert found.primal_integral_s() == pytest.approx(1 + 2 * 0.5)
    assert found.primal_integral_s(2.0) == pytest.approx(1 + 2 * 0.75 + 0.5)


def test_without_a_schedule_there_is_none() -> None:
    assert math.isnan(Result("unknown", None, None, None, None).primal_integral_s())
    assert Result("unknown", None, None, None, None, runtime_s=3.0).primal_integral_s(1.0) == 3.0
