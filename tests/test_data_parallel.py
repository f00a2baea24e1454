"""Data parallel as published: one stage per node, independent replicas; and an all-reduce."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances
from test_engine import B, F, U, build, run, starts

from lemix_opt import Cluster, Costs, Instance, evaluate, validate
from lemix_opt.engine import simulate
from lemix_opt.policy import FixedAssignment
from solvers import solve

NAMES = [field.name for field in fields(Costs) if field.name != "iteration"]


@settings(max_examples=60, deadline=None)
@given(instances(release_mode="open"), st.integers(0, 2**32 - 1))
def test_replicas_are_independent(instance: Instance, seed: int) -> None:
    nodes = instance.cluster.nodes
    where = np.random.default_rng(seed).integers(0, nodes, instance.tasks)
    where = np.where(instance.fits()[np.arange(instance.tasks), where], where, -1)
    where[where < 0] = instance.fits().argmax(axis=1)[where < 0]
    together = simulate(instance, FixedAssignment(tuple(where.tolist())))
    for node in range(nodes):
        own = np.flatnonzero(where == node)
        part = instance.window(own)
        kind = instance.cluster.node_class[node : node + 1]
        c = part.costs
        costs = Costs(*(getattr(c, name)[kind] for name in NAMES))
        memory = instance.cluster.memory_bytes[node : node + 1]
        alone = replace(part, cluster=Cluster(1, instance.cluster.stages, memory), costs=costs)
        schedule = simulate(alone, FixedAssignment((0,) * own.size))
        rows = together.operations
        here = rows.node == node
        assert schedule.operations.start_s.tolist() == rows.start_s[here].tolist()
        assert schedule.operations.end_s.tolist() == rows.end_s[here].tolist()


def replicas(all_reduce_s: float) -> Instance:
    instance = build(
        [1, 0, 1, 0], [0.0, 1.0, 1.0, 2.0], nodes=2, stages=1, update=0.5, release_mode="open"
    )
    return instance.with_costs(replace(instance.costs, all_reduce_s=np.full((1, 1), all_reduce_s)))


def test_one_stage_runs_a_training_task_in_one_go() -> None:
    schedule = run(replicas(0.0), [0, 0, 1, 1])
    assert starts(schedule) == {
        (0, F, 0): 0.0,
        (0, B, 0): 2.0,
        (0, U, 0): 6.0,
        (1, F, 0): 6.5,
        (2, F, 0): 1.0,
        (2, B, 0): 3.0,
        (2, U, 0): 7.0,
        (3, F, 0): 7.5,
    }


def test_synchronous_release_waits_for_a_backward_on_any_replica() -> None:
    schedule = run(replace(replicas(0.0), release_mode="sync"), [0, 0, 1, 1])
    assert schedule.release_s.tolist() == [0.0, 1.0, 6.0, 2.0]


def test_an_all_reduce_takes_the_node_that_trained_and_no_other() -> None:
    plain, reduced = run(replicas(0.0), [0, 0, 1, 1]), run(replicas(3.0), [0, 0, 1, 1])
    moved = {key: at - starts(plain)[key] for key, at in starts(reduced).items()}
    assert moved == {key: 3.0 if key in ((1, F, 0), (3, F, 0)) else 0.0 for key in moved}
    # Nobody trains on node 1: its requests do not wait for the other node's all-reduce.
    kept = run(replicas(3.0), [0, 1, 0, 1])
    assert (starts(kept)[1, F, 0], starts(kept)[3, F, 0]) == (1.0, 3.0)
    assert validate(replicas(3.0), reduced) == []
    assert {v.rule for v in validate(replicas(3.0), plain)} >= {"duration"}


def test_an_all_reduce_is_time_at_work_and_part_of_the_response() -> None:
    instance = replicas(3.0)
    schedule = run(instance, [0, 0, 1, 1])
    rows = schedule.operations
    assert (rows.end_s - rows.start_s)[rows.phase == U].tolist() == [3.5, 3.5]
    assert schedule.end_s()[0] == 9.5
    assert evaluate(instance, schedule).bubble_rate == 0.0


def test_the_exact_model_counts_it() -> None:
    alone = build([1], [0.0], stages=1, update=0.5)
    costs = replace(alone.costs, all_reduce_s=np.full((1, 1), 3.0))
    result = solve(alone.with_costs(costs), "cpsat")
    assert result.status == "optimal"
    assert result.objective == pytest.approx(9.5)
