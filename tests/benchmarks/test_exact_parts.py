"""Every part of the exact model off in turn; run by `make bench`, never by the tests."""

from __future__ import annotations

from typing import Any

import exact_cases
import pytest

from solvers import solve
from solvers.exact.parts import PARTS, Parts

LIMIT_S = 20
CASES = {
    "slo-12x2x2": exact_cases.mixed(12, 2, 2, 0),
    "slo-12x2x4": exact_cases.mixed(12, 2, 4, 1),
    "makespan-40x2x4": (exact_cases.mixed(40, 2, 4, 0)[0], exact_cases.MAKESPAN),
    "flow-shop-15x5": (exact_cases.flow_shop(15, 5, 0), exact_cases.MAKESPAN),
    "unrelated-60x4": (exact_cases.unrelated(60, 4, 0), exact_cases.MAKESPAN),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("without", ["none", *PARTS])
def test_without_a_part(benchmark: Any, case: str, without: str) -> None:
    """Seconds to the proof, or to the limit; the gap is printed beside."""
    instance, objective = CASES[case]
    parts = Parts() if without == "none" else Parts(**{without: False})
    result = benchmark.pedantic(
        solve,
        (instance, "cpsat", objective),
        {"time_limit_s": LIMIT_S, "parts": parts},
        rounds=1,
    )
    benchmark.extra_info["gap"] = "unknown" if result.gap is None else f"{result.gap:.4f}"
    assert result.schedule is not None
