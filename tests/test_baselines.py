"""Baselines: where they place, and that what they make is feasible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances

from lemix_opt import Cluster, Costs, Instance, Policy, Workload
from lemix_opt.engine import simulate
from lemix_opt.validation import validate
from solvers.online.baselines import Separate
from solvers.registry import POLICIES

BASELINES = sorted(set(POLICIES.names()) - {"lemix-reference"})


def build(nodes: int, kind: list[int], length: list[float]) -> Instance:
    work = np.array(length)[None, :, None]
    costs = Costs(work, work, 2.0**20 * work, 0.0)
    workload = Workload(kind, np.arange(len(kind)) * 0.1, 1, 8)
    return Instance(Cluster(nodes, 1, 2.0**30), workload, costs)


def places(name: str, instance: Instance, seed: int = 0) -> list[int]:
    return simulate(instance, POLICIES.create(name), seed=seed).node.tolist()


@given(instances(), st.sampled_from(BASELINES), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_every_baseline_keeps_the_rules_and_repeats_itself(
    instance: Instance, name: str, seed: int
) -> None:
    schedule = simulate(instance, POLICIES.create(name), seed=seed)
    assert validate(instance, schedule) == []
    assert schedule == simulate(instance, POLICIES.create(name), seed=seed)


class InPython:
    """A compiled policy, asked and told one step at a time."""

    def __init__(self, inner: Policy) -> None:
        self.start, self.decide, self.observe = inner.start, inner.decide, inner.observe


@given(instances(max_tasks=25), st.sampled_from(BASELINES), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_compiled_and_one_step_at_a_time_do_the_same(
    instance: Instance, name: str, seed: int
) -> None:
    whole = simulate(instance, POLICIES.create(name), seed=seed)
    assert whole == simulate(instance, InPython(POLICIES.create(name)), seed=seed)


def test_where_they_place() -> None:
    instance = build(2, [0] * 4, [9.0, 1.0, 1.0, 1.0])
    assert places("mix-rr", instance) == [0, 1, 0, 1]
    assert places("jsq", instance) == [0, 1, 0, 1]
    assert places("least-work-left", instance) == [0, 1, 1, 1]
    assert places("mix-luf", instance) == [0, 1, 1, 1]


def test_random_depends_on_the_seed_alone() -> None:
    instance = build(4, [0] * 30, [1.0] * 30)
    assert places("random", instance, 1) == places("random", instance, 1)
    assert places("random", instance, 1) != places("random", instance, 2)
    assert set(places("random", instance)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("nodes", "share", "serving"),
    [
        *[(4, 0.1, 3), (4, 0.3, 3), (4, 0.5, 2), (4, 0.7, 1), (4, 0.9, 1), (2, 0.5, 1)],
        *[(8, 0.1, 7), (8, 0.3, 6), (8, 0.5, 4), (8, 0.7, 2), (8, 0.9, 1)],
    ],
)
def test_the_static_split_is_the_published_one(nodes: int, share: float, serving: int) -> None:
    instance = build(nodes, [0, 1], [1.0, 1.0])
    serve, train = Separate(split=share).parts(instance)
    assert (serve, train) == (range(serving), range(serving, nodes))


def test_separate_keeps_the_kinds_apart() -> None:
    instance = build(4, [0, 0, 1, 1] * 3, [1.0] * 12)
    found = places("separate", instance)
    assert found == [0, 1, 2, 3] * 3
