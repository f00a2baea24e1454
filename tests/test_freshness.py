"""Freshness of the replica behind every request, counted one request at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances
from test_engine import build, run

from lemix_opt import Instance, evaluate, simulate
from lemix_opt.freshness import freshness, weight_sync_s
from lemix_opt.schedule import DONE, SYNC
from lemix_opt.weight_sync import WeightSync
from solvers.registry import POLICIES


def test_updates_count_from_the_moment_they_end() -> None:
    """One node: the training task ends at 12; requests start at 0, 12 and later."""
    instance = build([1, 0, 0], [0.0, 0.0, 12.0], nodes=2)
    found = freshness(instance, run(instance, [1, 0, 1]))
    assert found.updates.tolist() == [-1, 0, 1]
    assert found.behind.tolist() == [-1, 0, 0]


def test_serving_nodes_are_as_fresh_as_their_last_synchronisation() -> None:
    rule = WeightSync(1, 3.0, (0,))
    instance = build([1, 0, 0], [0.0, 14.0, 15.0], nodes=2, weight_sync=rule)
    schedule = run(instance, [1, 0, 0])
    found = freshness(instance, schedule)
    # The task ends at 12 and its weights arrive at 15.
    assert found.updates.tolist() == [-1, 0, 1]
    assert found.behind.tolist() == [-1, 1, 0]
    assert weight_sync_s(schedule) == 3.0
    score = evaluate(instance, schedule)
    assert score.freshness_mean_updates == 0.5
    assert score.weight_sync_s == 3.0


@settings(max_examples=150, deadline=None)
@given(instances(max_tasks=12, beyond=True), st.integers(0, 99))
def test_it_agrees_with_counting(instance: Instance, seed: int) -> None:
    schedule = simulate(instance, POLICIES.create("random"), seed=seed)
    found = freshness(instance, schedule)
    rows, training = schedule.operations, instance.workload.is_training
    ends = schedule.end_s()
    syncs = [r for r in range(rows.rows) if rows.phase[r] == SYNC]

    def own(node: int, until: float) -> list[int]:
        return [
            t
            for t in range(instance.tasks)
            if training[t]
            and schedule.end_state[t] == DONE
            and schedule.node[t] == node
            and ends[t] <= until
        ]

    def updates(node: int, at: float) -> int:
        arrived = [r for r in syncs if rows.end_s[r] <= at]
        if instance.weight_sync is None or node not in instance.weight_sync.serving or not arrived:
            return len(own(node, at))
        last = max(arrived, key=lambda r: (rows.end_s[r], rows.start_s[r]))
        since = set(own(node, at)) - set(own(node, rows.end_s[last]))
        return len(own(int(rows.node[last]), rows.start_s[last])) + len(since)

    for task in range(instance.tasks):
        mine = rows.start_s[rows.task == task]
        if training[task] or not mine.size:
            assert found.updates[task] == found.behind[task] == -1
            continue
        # Two synchronisations that begin and end together may count either way.
        keys = [(rows.start_s[r], rows.end_s[r]) for r in syncs]
        if len(set(keys)) < len(keys):
            return
        assert found.updates[task] == updates(int(schedule.node[task]), mine.min())
        newest = max(updates(n, mine.min()) for n in range(instance.cluster.nodes))
        assert found.behind[task] == newest - found.updates[task]


def test_without_requests_there_is_no_mean() -> None:
    instance = build([1], [0.0])
    assert np.isnan(freshness(instance, run(instance)).mean_updates())
