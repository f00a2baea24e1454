"""Policies on corrected costs: nothing is known early, and what is wrong becomes right."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances

from lemix_opt import Assign, BatchObserved, Cluster, Costs, Defer, Event, Instance, Workload
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError, UnknownNameError, UnsupportedError
from lemix_opt.schedule import BACKWARD, FORWARD
from lemix_opt.validation import validate
from solvers import solve
from solvers.corrected import Corrected, CorrectedState
from solvers.registry import POLICIES

SOME = ("lemix", "shortest-response", "least-work-left", "lemix-reference", "power-of-two")


def load(tasks: int, seed: int = 0) -> Instance:
    """Build a busy cluster of two node classes, whose costs vary by task."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(20, 400, tasks)
    seconds = tokens[None, :, None] * np.array([1e-4, 1.7e-4])[:, None, None] * np.ones((1, 1, 2))
    kind = (rng.random(tasks) < 0.3).astype(int)
    release_s = np.sort(rng.uniform(0, tasks * 0.02, tasks))
    costs = Costs(seconds, 2 * seconds * kind[None, :, None], 0.0, 0.0)
    cluster = Cluster(3, 2, 1.0, [0, 0, 1])
    return Instance(cluster, Workload(kind, release_s, 1, tokens), costs, slo_unit_s=0.05)


def scaled(costs: Costs, forward: Any, backward: Any) -> Costs:
    return replace(
        costs, forward_s=costs.forward_s * forward, backward_s=costs.backward_s * backward
    )


@dataclass
class Noted:
    """A policy and all that it answered, with the beliefs at that moment."""

    inner: Corrected
    answers: list[tuple[float, int, Any, tuple[float, ...]]] = field(default_factory=list)

    def start(self, instance: Instance, rng: np.random.Generator) -> CorrectedState:
        return self.inner.start(instance, rng)

    def believed(self, state: CorrectedState) -> Instance:
        return self.inner.believed(state)

    def decide(self, state: CorrectedState, now_s: float, task: int) -> Assign | Defer:
        answer = self.inner.decide(state, now_s, task)
        costs = state.believed.costs
        beliefs = (*costs.forward_s[:, task].flat, *costs.backward_s[:, task].flat)
        self.answers.append((now_s, task, answer, beliefs))
        return answer

    def observe(self, state: CorrectedState, event: Event | BatchObserved) -> None:
        self.inner.observe(state, event)


@given(instances(max_tasks=20, shared=None), st.sampled_from(SOME), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_right_predictions_are_left_alone(instance: Instance, name: str, seed: int) -> None:
    if instance.contention is not None:
        # Slowed operations take longer than predicted, which is then learned.
        instance = replace(instance, contention=None)
    plain = simulate(instance, POLICIES.create(name), seed=seed)
    assert simulate(instance, POLICIES.create(f"corrected:{name}"), seed=seed) == plain


@given(st.integers(0, 999), st.sampled_from(SOME), st.floats(0.1, 0.9))
@settings(max_examples=25, deadline=None)
def test_nothing_is_known_before_it_has_ended(seed: int, name: str, part: float) -> None:
    instance = load(60, seed)
    rng = np.random.default_rng(seed)
    shape = instance.costs.forward_s.shape
    actual = scaled(instance.costs, *rng.uniform(0.5, 1.5, (2, *shape)))
    first = Noted(Corrected(name))
    done = simulate(instance, first, actual=actual, seed=seed)
    rows = done.operations
    until_s = part * float(rows.end_s.max())
    # All that has not ended by then takes longer.
    late = {}
    for phase in (FORWARD, BACKWARD):
        late[phase] = np.ones(shape)
        late[phase] *= rng.uniform(1.0, 3.0, shape)
        ended = (rows.phase == phase) & (rows.end_s <= until_s)
        late[phase][:, rows.task[ended], rows.stage[ended]] = 1.0
    second = Noted(Corrected(name))
    simulate(instance, second, scaled(actual, late[FORWARD], late[BACKWARD]), seed=seed)
    early = [[a for a in noted.answers if a[0] <= until_s] for noted in (first, second)]
    assert early[0] == early[1]
    assert early[0]


def test_a_constant_bias_is_found_and_later_decisions_are_those_of_true_costs() -> None:
    instance = load(600)
    actual = scaled(instance.costs, 0.6, 0.8)
    for name in ("shortest-response", "lemix"):
        noted = Noted(Corrected(name))
        corrected = simulate(instance, noted, actual=actual)
        told = {task: beliefs for _, task, _, beliefs in noted.answers}
        true = instance.with_costs(actual)
        for task in range(500, 600):
            right = (*actual.forward_s[:, task].flat, *actual.backward_s[:, task].flat)
            assert told[task] == pytest.approx(right, rel=0.02)
        informed, blind = (
            simulate(true, POLICIES.create(name)),
            simulate(instance, POLICIES.create(name), actual=actual),
        )
        late = np.arange(600) >= 300
        agree = np.mean(corrected.node[late] == informed.node[late])
        assert agree > np.mean(blind.node[late] == informed.node[late])
        assert agree >= 0.9


def test_the_published_policy_revises_its_coefficients() -> None:
    instance = load(100)
    policy = Corrected("lemix-reference")
    state = policy.start(instance, np.random.default_rng(0))
    before = state.inner.forward_eta
    for task in range(10):
        for stage in (0, 1):
            took_s = 0.5 * instance.costs.forward_s[0, task, stage]
            for kind, at in (("start", 0.0), ("end", took_s)):
                policy.observe(state, Event(kind, at, task, 0, FORWARD, stage, 0.0))
    policy.decide(state, 1.0, 50)
    assert state.inner.forward_eta < 0.8 * before


def test_the_instance_that_was_given_is_left_alone() -> None:
    instance = load(40)
    before = instance.costs.forward_s.copy()
    schedule = simulate(instance, Corrected("lemix"), actual=scaled(instance.costs, 0.5, 2.0))
    assert validate(instance.with_costs(scaled(instance.costs, 0.5, 2.0)), schedule) == []
    assert np.array_equal(instance.costs.forward_s, before)
    assert not instance.costs.forward_s.flags.writeable


def test_names() -> None:
    instance = load(10)
    assert "corrected:jsq" in POLICIES
    assert "corrected:jqs" not in POLICIES
    plain, named = (solve(instance, name) for name in ("jsq", "corrected:jsq"))
    assert named.schedule == plain.schedule
    assert solve(instance, "corrected", policy="jsq").schedule == plain.schedule
    with pytest.raises(UnknownNameError, match="Did you mean 'jsq'"):
        POLICIES.create("corrected:jqs")
    with pytest.raises(FieldError, match="takes no other policy"):
        POLICIES.create("jsq:lemix")
    with pytest.raises(FieldError, match="corrected already"):
        POLICIES.create("corrected:corrected:jsq")


def test_micro_batches_are_refused() -> None:
    instance = replace(load(10), pipeline="gpipe", micro_batches=2)
    with pytest.raises(UnsupportedError, match="2 micro-batches"):
        simulate(instance, Corrected("jsq"))
