"""Taking the largest task's node apart keeps some optimal schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import MODES, REGULAR, random_instance, regular_value, tiny

from lemix_opt import Cluster, Costs, Instance, Workload
from solvers.bounds.anchor import anchored
from solvers.bounds.front import lower_bound
from solvers.bounds.lagrangian import relaxation_of
from solvers.exact.data import tick_data


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans())
def test_never_above_the_optimum(seed: int, mode: str, fifo: bool) -> None:
    """Two or more nodes that are alike, most memory in use."""
    one = tiny(seed, mode, fifo)
    cluster = Cluster(2, one.cluster.stages, 3 * 2.0**20)
    instance = replace(one, cluster=cluster)
    best = optimum(instance, lambda ends: regular_value(instance, ends))
    assert lower_bound(instance, REGULAR, evaluations=80).seconds <= best + 1e-9


@given(st.integers(0, 2**32 - 1))
def test_only_nodes_that_are_alike_are_split(seed: int) -> None:
    instance = random_instance(seed, "async", False)
    data = tick_data(instance, bound=True)
    places = anchored(instance, data)
    if places is None:
        return
    apart = places.group == places.group.max()
    assert apart.sum() == 1
    like = instance.cluster.node_class == places.split
    assert like.sum() >= 2
    assert like[apart].all()
    homeless = ~places.open.all(axis=0)
    assert homeless.sum() == 1
    assert instance.workload.is_training[homeless].all()


def test_one_node_or_several_classes_are_left_alone() -> None:
    workload = Workload([1], [0.0], 1, 8)
    costs = Costs([[[1.0]]], [[[1.0]]], 2.0**20, 0.0)
    single = Instance(Cluster(1, 1, 2.0**21), workload, costs)
    assert anchored(single, tick_data(single, bound=True)) is None
    both = Costs([[[1.0]], [[2.0]]], 1.0, 2.0**20, 0.0)
    mixed = Instance(Cluster(2, 1, 2.0**21, [0, 1]), workload, both)
    assert anchored(mixed, tick_data(mixed, bound=True)) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES))
def test_it_costs_nothing(seed: int, mode: str) -> None:
    """At the same prices the bound is no lower than that of all nodes together."""
    instance = random_instance(seed, mode, False)
    data = tick_data(instance, bound=True)
    places = anchored(instance, data)
    if places is None:
        return
    together = relaxation_of(instance, data, REGULAR.weights, data.release)
    apart = relaxation_of(instance, data, REGULAR.weights, data.release, places)
    assert together is not None
    assert apart is not None
    rng = np.random.default_rng(seed)
    prices = together.rows(together.horizon)
    for price in prices:
        price += rng.random(price.shape) * 0.2
    value = apart.value_s(*(places.spread(price) for price in prices))
    assert value >= together.value_s(*prices) - 1e-5
