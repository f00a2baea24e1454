"""Speed of the exact solver; run by `make bench`, never by the tests."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.study import Study, build
from solvers import solve


@pytest.mark.parametrize("seed", range(10))
def test_time_to_optimality(benchmark: Any, seed: int) -> None:
    """Ten tasks on 2x2 under the slo objective, ten fixed seeds."""
    problem = build(Study(tasks=10, nodes=2, stages=2, load=0.9, seed=seed))
    result = benchmark.pedantic(
        solve,
        (problem.trace.instance, "cpsat", problem.objective),
        {"time_limit_s": 120},
        rounds=1,
    )
    assert result.status == "optimal"
