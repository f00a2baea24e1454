"""LeMix as the paper means it: predictions that come true, consolidation, deferral."""

from __future__ import annotations

import numpy as np
import pytest
import slow_lemix
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances

from lemix_opt import Cluster, Costs, Event, Instance, Workload
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError
from lemix_opt.evaluation import evaluate
from lemix_opt.schedule import DONE, DROPPED
from lemix_opt.validation import validate
from solvers.online.lemix import READINGS, Lemix
from solvers.registry import POLICIES


def build(
    kind: list[int], release_s: list[float], forward: float = 1.0, nodes: int = 2, stages: int = 2
) -> Instance:
    shape = (1, len(kind), stages)
    costs = Costs(np.full(shape, forward), np.full(shape, 2 * forward), 0.0 * np.ones(shape), 0.0)
    return Instance(Cluster(nodes, stages, 1.0), Workload(kind, release_s, 1, 8), costs)


@given(instances(), st.sampled_from(READINGS))
@settings(max_examples=150, deadline=None)
def test_it_keeps_the_rules_and_finishes_everything(instance: Instance, reading: str) -> None:
    schedule = simulate(instance, Lemix(reading))
    assert validate(instance, schedule) == []
    assert set(schedule.end_state.tolist()) <= {DONE}
    assert schedule == simulate(instance, Lemix(reading))


@given(instances(gpu_order="reserve", fifo=True, release_mode="open"))
@settings(max_examples=100, deadline=None)
def test_it_places_where_tasks_fit(instance: Instance) -> None:
    schedule = simulate(instance, Lemix())
    assert all(instance.fits()[task, node] for task, node in enumerate(schedule.node))
    assert DROPPED not in schedule.end_state


@given(instances(max_tasks=25), st.sampled_from(READINGS), st.booleans())
@settings(max_examples=150, deadline=None)
def test_it_agrees_with_lists_and_dictionaries(
    instance: Instance, reading: str, prioritization: bool
) -> None:
    fast = simulate(instance, Lemix(reading, prioritization=prioritization))
    slow = simulate(instance, slow_lemix.Lemix(reading, prioritization=prioritization))
    # Moments of deferral are sums in another order; all else follows from them.
    assert fast.node.tolist() == slow.node.tolist()
    assert fast.end_state.tolist() == slow.end_state.tolist()
    assert fast.operations.start_s == pytest.approx(slow.operations.start_s, abs=1e-9)


def test_predictions_come_true_on_one_node() -> None:
    """On one node whose costs are as predicted, every forward ends when it was predicted to."""
    instance = build([0, 1, 0, 0, 1, 0], [0.0, 0.5, 0.5, 3.0, 3.0, 3.5], nodes=1)
    said: dict[int, float] = {}

    class Spy(slow_lemix.Lemix):
        def observe(self, state: slow_lemix.LemixState, event: object) -> None:
            super().observe(state, event)  # type: ignore[arg-type]
            if isinstance(event, Event) and event.kind == "assign":
                last = state.timelines[event.node]
                said[event.task] = last.open[event.task].end_s + last._drift[-1]

    schedule = simulate(instance, Spy(prioritization=False))
    rows = schedule.operations
    for task, end_s in said.items():
        mine = (rows.task == task) & (rows.phase == 0) & (rows.stage == 1)
        assert rows.end_s[mine] == pytest.approx(end_s), task


def test_a_stage_begins_after_the_one_before_has_ended() -> None:
    books = slow_lemix.Lemix().start(build([0], [0.0]), np.random.default_rng(0))
    predicted = books.timelines[0].predict(0.0, [1.0, 1.0], None, [0.5])
    assert predicted.forward_end == [1.0, 2.5]
    assert predicted.end_s == 2.5


def test_scoring_the_same_task_twice_gives_the_same_answer() -> None:
    instance = build([1, 0, 0], [0.0, 0.1, 0.2])
    policy = Lemix()
    state = policy.start(instance, np.random.default_rng(0))
    first = policy.decide(state, 0.0, 0)
    assert policy.decide(state, 0.0, 0) == first


def _poisson(load: float) -> Instance:
    rng = np.random.default_rng(3)
    tasks, nodes, stages = 200, 4, 2
    kind = rng.integers(0, 2, tasks)
    forward = np.repeat(rng.uniform(0.05, 0.2, (1, tasks, 1)), stages, axis=2)
    backward = 2 * forward * kind[None, :, None]
    span_s = (forward + backward).mean(axis=2).sum() / (nodes * load)
    release_s = np.sort(rng.uniform(0, span_s, tasks))
    return Instance(
        Cluster(nodes, stages, 1.0),
        Workload(kind, release_s, 1, 8),
        Costs(forward, backward, 0 * forward, 0.0),
        release_mode="open",
    )


def test_it_consolidates_at_low_load_and_spreads_at_high_load() -> None:
    effective = {}
    for load in (0.05, 0.9):
        instance = _poisson(load)
        score = evaluate(instance, simulate(instance, Lemix()))
        robin = evaluate(instance, simulate(instance, POLICIES.create("mix-rr")))
        assert score.slo_attainment_5x >= robin.slo_attainment_5x
        effective[load] = score.nodes_effective
    assert effective[0.05] < 1.6
    assert effective[0.9] > 3.4


def test_training_is_put_off_only_while_inference_is_in_flight() -> None:
    # The unit is 2 s, so 10 s is the limit; five earlier tasks make training wait longer.
    work = build([0] * 6 + [1], [0.0] * 6 + [0.1], forward=2.0, nodes=1)
    waits = simulate(work, Lemix(slo_units=1.0))
    at_once = simulate(work, Lemix(slo_units=1.0, prioritization=False))
    assert waits.end_state.tolist() == [DONE] * 7
    assert waits.start_s()[6] >= at_once.start_s()[6]
    alone = build([1, 1], [0.0, 0.0], forward=2.0, nodes=1)
    assert simulate(alone, Lemix(slo_units=0.001)).complete


def test_bad_parameters_are_named() -> None:
    with pytest.raises(FieldError, match="reading"):
        Lemix(reading="product")
    with pytest.raises(FieldError, match="epsilon"):
        Lemix(epsilon=0.0)
