"""Speed of engine, LeMix and the exact solver; run by `make bench`, never by the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments.study import Study, build
from lemix_opt import Event, Instance, simulate
from lemix_opt.policy import Assign
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers import solve
from solvers.registry import POLICIES

TASKS = 4_000


@pytest.fixture(scope="module")
def instance() -> Instance:
    """4x4, half training, Poisson at load 0.9, memory reservations on (synthetic)."""
    return build(Study(tasks=TASKS, training_share=0.5, load=0.9)).trace.instance


@pytest.mark.parametrize("name", ["mix-rr", "jsq", "lemix"])
def test_engine(benchmark: Any, instance: Instance, name: str) -> None:
    policy = POLICIES.create(name)
    schedule = benchmark.pedantic(simulate, (instance, policy), rounds=3)
    assert schedule.complete
    benchmark.extra_info["tasks_per_s"] = round(TASKS / benchmark.stats.stats.median)


@pytest.mark.parametrize("name", ["lemix", "lemix-reference"])
@pytest.mark.parametrize("earlier", [100, 100_000])
def test_decision(benchmark: Any, name: str, earlier: int) -> None:
    """One decision at 4x4 after `earlier` tasks that have been placed and have ended."""
    work = build(Study(tasks=earlier + 1, training_share=0.5, load=0.9)).trace.instance
    policy = POLICIES.create(name)
    state = policy.start(work, np.random.default_rng(0))
    for task in range(earlier):
        # Round robin keeps the books of all nodes alike; every task ends before the next comes.
        now = float(work.workload.release_s[task])
        policy.decide(state, now, task)
        policy.observe(state, Event("assign", now, task, task % 4))
        for stage in range(4):
            policy.observe(state, Event("end", now, task, task % 4, FORWARD, stage))
        if work.workload.is_training[task]:
            for stage in (3, 2, 1, 0):
                policy.observe(state, Event("end", now, task, task % 4, BACKWARD, stage))
    now = float(work.workload.release_s[earlier])
    answer = benchmark(policy.decide, state, now, earlier)
    assert isinstance(answer, Assign) or name == "lemix-reference"
    benchmark.extra_info["us_per_decision"] = round(1e6 * benchmark.stats.stats.median, 2)


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
