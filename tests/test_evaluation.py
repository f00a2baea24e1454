"""Objective terms and metrics on a schedule worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from lemix_opt.engine import simulate
from lemix_opt.evaluation import evaluate, objective_value
from lemix_opt.policy import FixedAssignment

# Node 0: forwards of task 0 at 0-1 and 1-2, of task 1 at 1-2 and 2-3. Node 1: task 2 trains 0-8.
SHAPE = (1, 3, 2)
BACKWARD = np.array([[[0.0, 0.0], [0.0, 0.0], [3.0, 3.0]]])
INSTANCE = Instance(
    Cluster(2, 2, 10.0),
    Workload([0, 0, 1], [0.0, 0.5, 0.0], 1, 8, weight=[1.0, 2.0, 3.0], slo_s=[2.0, 2.0, 1.0]),
    Costs(np.ones(SHAPE), BACKWARD, 0.0, 0.0),
)
SCHEDULE = simulate(INSTANCE, FixedAssignment((0, 0, 1)))


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (Objective(makespan=2), 16.0),
        (Objective(inference_response=1), 2.0 + 2 * 2.5),
        (Objective(training_response=1), 24.0),
        (Objective(late_penalty_s=10), 20.0),
        (Objective(node_time=1), 11.0),
        (Objective(idle=1), 22.0 - 12.0),
        (Objective(makespan=1, late_penalty_s=10, lexicographic=("late", "makespan")), (20.0, 8.0)),
    ],
)
def test_terms(objective: Objective, value: float) -> None:
    assert objective_value(INSTANCE, SCHEDULE, objective) == pytest.approx(value)


def test_metrics() -> None:
    score = evaluate(INSTANCE, SCHEDULE)
    assert (score.inference_done, score.training_done) == (2, 1)
    assert score.slo_unit_s == 2.0
    assert score.slo_attainment_1x == 0.5
    assert score.slo_attainment_5x == score.slo_attainable_5x == 1.0
    assert score.response_p99_s == 2.5
    assert score.throughput_per_node_s == pytest.approx(3 / 11)
    assert score.throughput_per_s == pytest.approx(3 / 8)
    assert score.bubble_rate == pytest.approx(1 - 12 / 22)
    assert score.bubble_rate_reference == pytest.approx(1 - 12 / (2 + 2 + 8 + 4))
    assert score.nodes_effective == pytest.approx(9 / 5)


def test_a_single_training_task_leaves_the_bubbles_of_one_micro_batch() -> None:
    # S stages, one batch per flush: shares (S-1)/(M+S-1) and (S-1)/(2M+S-1) with M = 1.
    for stages in (1, 2, 3, 4):
        costs = Costs(np.ones((1, 1, stages)), 1.0, 0.0, 0.0)
        instance = Instance(Cluster(1, stages, 1.0), Workload([1], [0.0], 1, 8), costs)
        score = evaluate(instance, simulate(instance, FixedAssignment((0,))))
        assert score.bubble_rate == pytest.approx((stages - 1) / stages)
        assert score.bubble_rate_reference == pytest.approx((stages - 1) / (stages + 1))


def test_no_tasks_divide_by_nothing() -> None:
    none = np.array([], dtype=int)
    score = evaluate(INSTANCE.window(none), simulate(INSTANCE.window(none), FixedAssignment(())))
    assert score.tasks == 0
    assert np.isnan(score.response_p50_s)
