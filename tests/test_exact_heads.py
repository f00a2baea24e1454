"""Heads and distances of the closed loop lie below every schedule."""

from __future__ import annotations

import itertools

import brute_starts
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_instances import tiny
from strategies import instances

from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.schedule import FORWARD
from solvers import solve
from solvers.exact.chains import chains
from solvers.exact.data import tick_data
from solvers.exact.heads import Loop, closed_loop


def loop_of(instance: Instance) -> Loop:
    data = tick_data(instance, bound=True)
    return closed_loop(instance, data, chains(instance, data))


def check(loop: Loop, first: dict[int, float]) -> None:
    for a, i in enumerate(loop.tasks):
        assert loop.head[a] <= first[i] + 1e-6
        for b in range(a + 1, len(loop.tasks)):
            assert loop.lag[a, b] <= first[loop.tasks[b]] - first[i] + 1e-6


@given(st.integers(0, 2**32 - 1), st.sampled_from(["async", "sync", "open"]))
@settings(max_examples=60, deadline=None)
def test_no_integer_schedule_starts_earlier(seed: int, mode: str) -> None:
    instance = tiny(seed, mode, False, most=6, longest=2)
    assume(brute_starts.horizon(instance) <= 12)
    loop = loop_of(instance)
    for _, start in itertools.islice(brute_starts.solutions(instance), 2000):
        check(loop, {i: start[i, "F", 0] for i in range(instance.tasks)})


@given(instances(max_tasks=8), st.sampled_from(["jsq", "lemix", "mix-rr"]))
@settings(max_examples=80, deadline=None)
def test_no_policy_starts_earlier(instance: Instance, name: str) -> None:
    schedule = solve(instance, name).schedule
    assert schedule is not None
    assume(schedule.complete)
    rows = schedule.operations
    first = (rows.phase == FORWARD) & (rows.stage == 0)
    ticks = rows.start_s[first] / instance.tick_s
    check(loop_of(instance), dict(zip(rows.task[first].tolist(), ticks.tolist(), strict=True)))


def test_three_large_tasks_on_two_nodes_wait_for_the_first_to_end() -> None:
    one = np.ones((1, 3, 1))
    costs = Costs(one, 2 * one, 3 * 2.0**20, 0.0)
    cluster, work = Cluster(2, 1, 5 * 2.0**20), Workload([1] * 3, [0.0] * 3, 1, 8)
    loop = loop_of(Instance(cluster, work, costs, tick_s=1.0))
    assert loop.head.tolist() == [0, 1, 3]
    assert loop.lag[0].tolist() == [0, 1, 3]
    assert loop.lag[1].tolist() == [0, 0, 1]
