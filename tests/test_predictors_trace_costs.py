"""Costs learned from a trace: what follows the rule is found again, other tasks are predicted."""

from __future__ import annotations

import numpy as np
import pytest

from lemix_opt import Cluster, CostModel, Costs, Instance, Trace, Workload, replay
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError
from predictors import TraceCostModel
from solvers.registry import POLICIES


def trace_of(seed: int, *, training: float = 0.4, noise: float = 0.0) -> Trace:
    """Times linear in tokens, with another slope per kind, phase and stage."""
    rng = np.random.default_rng(seed)
    tasks = 40
    kind = (rng.random(tasks) < training).astype(int)
    rows, length = rng.integers(1, 5, tasks), rng.integers(16, 200, tasks)
    tokens = (rows * length)[None, :, None] * np.array([1.0, 1.5])[None, None, :]
    spread = np.exp(rng.normal(0, noise, (2, 1, tasks, 2)))
    forward = (0.002 + 1e-5 * tokens * (1 + 0.3 * kind)[None, :, None]) * spread[0]
    backward = (0.003 + 2e-5 * tokens) * kind[None, :, None] * spread[1]
    hop = 1e-7 * tokens[:, :, :1]
    resident, update = [[5e6, 6e6]], [[0.001, 0.002]]
    costs = Costs(forward, backward, 1000.0 * tokens, resident, update, hop)  # type: ignore[arg-type]
    release = np.sort(rng.uniform(0, 1, tasks))
    work = Workload(kind, release, rows, length)
    instance = Instance(Cluster(1, 2, 1e9), work, costs)
    done = simulate(instance, POLICIES.create("jsq"))
    return Trace(instance, costs, "synthetic", "drawn here", done)


def test_times_that_follow_the_model_are_found_again() -> None:
    learned, other = TraceCostModel(trace_of(1)), trace_of(2)
    assert isinstance(learned, CostModel)
    told = learned.costs(other.instance)
    for name in ("forward_s", "backward_s", "held_bytes", "hop_s", "update_s", "resident_bytes"):
        found, true = getattr(told, name), getattr(other.actual, name)
        np.testing.assert_allclose(found, true, rtol=1e-6, atol=1e-12)


def test_a_replay_on_predicted_times_keeps_decisions_and_comes_near() -> None:
    other = trace_of(2, noise=0.05)
    assert other.schedule is not None
    found = replay(other, other.schedule, time_model=TraceCostModel(trace_of(1, noise=0.05)))
    assert found.truth == "synthetic"
    assert "times predicted by 'analytic' fitted to 40 tasks" in found.provenance
    assert found.schedule.node.tolist() == other.schedule.node.tolist()
    recorded = float(other.schedule.operations.end_s.max())
    assert float(found.schedule.operations.end_s.max()) == pytest.approx(recorded, rel=0.05)


def test_a_kind_that_was_not_seen_is_not_invented() -> None:
    with pytest.raises(FieldError, match="0 training tasks"):
        TraceCostModel(trace_of(1, training=0.0)).costs(trace_of(2).instance)


def test_totals_are_right_where_times_scatter() -> None:
    # A fit of least relative error would lie 2 · 0.3² = 18 % below.
    trace = trace_of(3, noise=0.3)
    told = TraceCostModel(trace).costs(trace.instance)
    for kind in (trace.instance.workload.is_training, trace.instance.workload.is_inference):
        found, true = told.forward_s[:, kind].sum(axis=1), trace.actual.forward_s[:, kind]
        np.testing.assert_allclose(found, true.sum(axis=1), rtol=0.1)


def test_draws_scatter_as_the_trace_does_and_repeat_by_seed() -> None:
    model, other = TraceCostModel(trace_of(4, noise=0.2)), trace_of(5)
    drawn = list(model.draws(other.instance, 40, seed=1))
    again = list(model.draws(other.instance, 40, seed=1))
    assert all(a == b for a, b in zip(drawn, again, strict=True))
    ratio = np.log(np.array([c.forward_s for c in drawn]) / model.costs(other.instance).forward_s)
    assert 0.15 < ratio.std() < 0.35
    assert abs(ratio.mean()) < 0.1
    assert all(np.array_equal(c.held_bytes, drawn[0].held_bytes) for c in drawn)


def test_draws_of_a_trace_without_scatter_are_its_predictions() -> None:
    model, other = TraceCostModel(trace_of(1)), trace_of(2)
    for costs in model.draws(other.instance, 3):
        np.testing.assert_allclose(costs.forward_s, other.actual.forward_s, rtol=1e-6)
