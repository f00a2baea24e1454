"""Whether time limits are kept, model building included; run by `make bench`."""

from __future__ import annotations

from typing import Any

import pytest
from exact_cases import mixed

from solvers import solve

LIMIT_S = 6.0


@pytest.mark.parametrize("solver", ["cpsat", "portfolio", "anneal", "lns"])
@pytest.mark.parametrize("tasks", [40, 200])
def test_time_limit(benchmark: Any, solver: str, tasks: int) -> None:
    """At most 5 % and a second beyond the limit, on a quiet machine."""
    instance, objective = mixed(tasks, 4, 4, 0)
    result = benchmark.pedantic(
        solve, (instance, solver, objective), {"time_limit_s": LIMIT_S, "workers": 2}, rounds=1
    )
    benchmark.extra_info["s_beyond_limit"] = round(benchmark.stats.stats.max - LIMIT_S, 2)
    assert result.schedule is not None
