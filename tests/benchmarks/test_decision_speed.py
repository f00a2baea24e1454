"""Seconds of one decision after many finished tasks and with many open ones; see `make bench`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from large import repeated
from numba import types

from lemix_opt import Assign, Event
from lemix_opt.engine.books import STATE_T
from lemix_opt.engine.codes import SEES_ASSIGN, SEES_END
from lemix_opt.engine.jit import compiled
from lemix_opt.engine.signatures import DECIDE_T, OBSERVE_T
from lemix_opt.engine.view import VIEW_T, view_of
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.online.lemix import Lemix
from solvers.registry import POLICIES

DECISIONS = 10_000


def history(decide: Any, observe: Any, view: Any, state: Any, earlier: int, finished: int) -> int:
    """Place tasks round robin and end the first `finished` of them at once."""
    nodes, stages = view.memory_bytes.shape
    for task in range(earlier):
        now, node = view.release_s[task], task % nodes
        observe(SEES_ASSIGN, now, task, node, -1, -1, 0.0, view, state)
        if task < finished:
            for s in range(stages):
                observe(SEES_END, now, task, node, FORWARD, s, 0.0, view, state)
            if view.training[task]:
                for s in range(stages - 1, -1, -1):
                    observe(SEES_END, now, task, node, BACKWARD, s, 0.0, view, state)
    return 0


def decisions(decide: Any, observe: Any, view: Any, state: Any, task: int, count: int) -> int:
    """Decide on the tasks from `task` on; none is placed."""
    total = 0
    for k in range(count):
        total += decide(view.release_s[task + k], task + k, view, state)
    return total


@lru_cache(maxsize=2)
def loop(function: Any) -> Any:
    pair = types.FunctionType(DECIDE_T), types.FunctionType(OBSERVE_T)
    return compiled(function, (*pair, VIEW_T, STATE_T, types.int64, types.int64))


@pytest.mark.parametrize(
    ("nodes", "stages", "finished", "opened"),
    [
        (4, 4, 400, 0),
        (4, 4, 400_000, 0),
        (4, 4, 400, 400),
        (4, 4, 400_000, 400),
        (64, 8, 6_400, 0),
    ],
)
def test_lemix_decision(
    benchmark: Any, nodes: int, stages: int, finished: int, opened: int
) -> None:
    """`opened` training tasks are open in the whole cluster; every node has its share."""
    instance = repeated(finished + 2 * opened + DECISIONS, nodes, stages)
    view, policy = view_of(instance), Lemix(reading="inverse_idleness", prioritization=False)
    state = policy.numbers(instance, np.random.default_rng(0))
    functions = policy.functions()
    loop(history)(*functions, view, state, finished + 2 * opened, finished)
    arguments = (*functions, view, state, finished + 2 * opened, DECISIONS)
    benchmark.pedantic(loop(decisions), arguments, rounds=9, warmup_rounds=1)
    benchmark.extra_info["us_per_decision"] = round(
        1e6 * benchmark.stats.stats.median / DECISIONS, 3
    )


@pytest.mark.parametrize("earlier", [400, 400_000])
def test_reference_decision(benchmark: Any, earlier: int) -> None:
    """`lemix-reference` at 4x4, in Python, after tasks that have been placed and have ended."""
    instance = repeated(earlier + 1)
    policy = POLICIES.create("lemix-reference")
    state = policy.start(instance, np.random.default_rng(0))
    for task in range(earlier):
        now = float(instance.workload.release_s[task])
        policy.decide(state, now, task)
        policy.observe(state, Event("assign", now, task, task % 4))
        for stage in range(4):
            policy.observe(state, Event("end", now, task, task % 4, FORWARD, stage))
        if instance.workload.is_training[task]:
            for stage in (3, 2, 1, 0):
                policy.observe(state, Event("end", now, task, task % 4, BACKWARD, stage))
    now = float(instance.workload.release_s[earlier])
    answer = benchmark(policy.decide, state, now, earlier)
    assert isinstance(answer, Assign)
    benchmark.extra_info["us_per_decision"] = round(1e6 * benchmark.stats.stats.median, 2)
