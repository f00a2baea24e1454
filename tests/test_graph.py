"""The critical path tiles the makespan, and the graph carries the schedule."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances

from lemix_opt import Cluster, Costs, Instance, Trace, Workload
from lemix_opt.engine import simulate
from lemix_opt.graph import critical_path, explain, operation_graph
from lemix_opt.policy import FixedAssignment
from lemix_opt.replaying import replay
from solvers.registry import POLICIES

NAMES = st.sampled_from(["jsq", "mix-rr", "lemix"])
parted = instances(beyond=True, weight_sync=None)


@given(parted, NAMES)
@settings(max_examples=200, deadline=None)
def test_segments_tile_the_makespan(instance: Instance, name: str) -> None:
    schedule = simulate(instance, POLICIES.create(name))
    path = critical_path(instance, schedule)
    if not schedule.operations.rows:
        assert path == ()
        return
    assert path[0].start_s == 0 or path[0].reason == "run"
    assert path[0].start_s <= 1e-9
    assert path[-1].end_s == np.max(schedule.operations.end_s)
    for before, after in pairwise(path):
        assert before.end_s == after.start_s
        assert before.end_s >= before.start_s


@given(parted, NAMES)
@settings(max_examples=100, deadline=None)
def test_the_longest_path_is_the_makespan_of_left_shifted_schedules(
    instance: Instance, name: str
) -> None:
    plan = simulate(instance, POLICIES.create(name))
    early = replay(Trace(instance, instance.costs, "synthetic", ""), plan).schedule
    graph = operation_graph(instance, early)
    assert nx.is_directed_acyclic_graph(graph)
    reached: dict[int, float] = {}
    for row in nx.topological_sort(graph):
        data = graph.nodes[row]
        ready = [reached[b] + e["lag_s"] for b, _, e in graph.in_edges(row, data=True)]
        if data["phase"] == 0 and data["stage"] == 0:
            ready.append(float(instance.workload.release_s[data["task"]]))
        reached[row] = max(ready, default=0.0) + data["end_s"] - data["start_s"]
    assert max(reached.values(), default=0.0) == pytest.approx(
        float(np.max(early.operations.end_s, initial=0.0))
    )
    if early.complete:
        assert all(s.reason != "wait" for s in critical_path(instance, early))


def build(held: list[float], hop: float = 0.0) -> Instance:
    shape = (1, 2, 2)
    costs = Costs(
        np.ones(shape),
        np.ones(shape),
        np.broadcast_to(np.array(held)[None, :, None], shape),
        np.zeros((1, 2)),
        hop_s=np.full((1, 2, 1), hop),
    )
    work = Workload(np.array([1, 0]), np.array([0.5, 0.5]), np.ones(2, int), np.ones(2, int))
    return Instance(Cluster(1, 2, np.full((1, 2), 2.0)), work, costs, gpu_order="backward_first")


def reasons(instance: Instance) -> list[tuple[str, str, float]]:
    schedule = simulate(instance, FixedAssignment((0, 0)))
    path = critical_path(instance, schedule)
    return [(s.reason, s.follows, s.end_s - s.start_s) for s in path]


def test_reasons_by_hand() -> None:
    assert reasons(build([1, 1])) == [
        ("arrival", "release", 0.5),
        ("run", "release", 1),
        ("run", "chain", 1),
        ("run", "chain", 1),
        ("run", "chain", 1),
    ]
    assert ("hop", "chain", 0.25) in reasons(build([1, 1], hop=0.25))
    assert ("run", "memory", 1) in reasons(build([2, 1]))


def test_backwards_of_gpipe_wait_for_all_forwards() -> None:
    flush = replace(build([1, 1]), pipeline="gpipe", micro_batches=2)
    schedule = simulate(flush, FixedAssignment((0, 0)))
    graph = operation_graph(flush, schedule)
    rows = {
        (data["task"], data["phase"], data["stage"], data["micro_batch"]): row
        for row, data in graph.nodes(data=True)
    }
    forwards = {rows[0, 0, 1, 0], rows[0, 0, 1, 1]}
    for part in (0, 1):
        edges = graph.in_edges(rows[0, 1, 1, part], data=True)
        assert {b for b, _, edge in edges if edge["reason"] == "chain"} == forwards
    assert "(micro-batch 1)" in explain(flush, schedule)


def test_the_explanation_adds_up() -> None:
    instance = build([2, 1])
    text = explain(instance, simulate(instance, FixedAssignment((0, 0))))
    assert text.splitlines()[0].endswith("has no work before task 0 arrives")
    assert "after memory" in text
    assert text.splitlines()[-1].startswith("makespan 6.5000 s")
