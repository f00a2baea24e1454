"""Special cases of the makespan: by their own method as by brute force, and within limits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.benchmarks import suite
from lemix_opt import Cluster, Costs, Instance, Objective, Workload, validate
from solvers import solve
from solvers.exact.data import tick_data
from solvers.exact.placement import place
from solvers.exact.special import is_special

MAKESPAN = Objective(makespan=1)


def last_end(size: np.ndarray, release: np.ndarray, node: tuple[int, ...]) -> int:
    free = [0] * len(size)
    for i in np.argsort(release, kind="stable").tolist():
        free[node[i]] = max(free[node[i]], int(release[i])) + int(size[node[i], i])
    return max(free)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_placements_are_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, tasks = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    size = rng.integers(1, 20, (nodes, tasks))
    release = rng.integers(0, int(rng.choice([1, 15])), tasks)
    fits = rng.random((nodes, tasks)) < 0.8
    fits[0] = True
    allowed = [
        node
        for node in itertools.product(range(nodes), repeat=tasks)
        if all(fits[n, i] for i, n in enumerate(node))
    ]
    best = min(last_end(size, release, node) for node in allowed)
    found = place(size, release, fits, 60.0, None)
    assert found.node is not None
    assert tuple(found.node.tolist()) in allowed
    assert last_end(size, release, tuple(found.node.tolist())) == found.lower_bound == best


@pytest.mark.parametrize("name", ["r-cmax", "p-rj-cmax", "taillard-20x10"])
def test_a_short_limit_leaves_a_schedule_and_a_bound(name: str) -> None:
    case = suite(name, seeds=1)[-1]
    result = solve(case.instance, "cpsat", MAKESPAN, deterministic_limit=0.01)
    assert result.schedule is not None
    assert validate(case.instance, result.schedule) == []
    assert isinstance(result.lower_bound, float)
    assert isinstance(result.objective, float)
    assert 0 < result.lower_bound <= result.objective + 1e-9


def test_memory_that_never_binds_needs_no_grid() -> None:
    costs = Costs([[[0.003], [0.004]]], 0.0, 1.5, np.zeros((1, 1)))
    work = Workload([0, 0], [0.0, 0.0], 1, 8)
    ample = Instance(Cluster(2, 1, 4.0 * 2**20 + 0.5), work, costs, release_mode="open")
    assert tick_data(ample, bound=False).exact
    assert is_special(ample, MAKESPAN, tick_data(ample, bound=False))
    odd = replace(costs, held_bytes=[[[1.5e6], [1e6 * 2**0.5]]])
    # No size is near enough to the room for a byte to matter.
    assert tick_data(Instance(Cluster(2, 1, 2.5e6), work, odd, "open"), bound=False).exact
    tight = Instance(Cluster(2, 1, 1.5e6 + 1e6 * 2**0.5), work, odd, release_mode="open")
    assert not tick_data(tight, bound=False).exact
    assert tick_data(replace(tight, costs=replace(costs, held_bytes=1e6 / 3)), bound=False).exact


def test_sizes_beyond_the_tables_of_the_methods_are_left_alone_or_sparse() -> None:
    many = 20_000
    found = place(np.ones((2, many)), np.zeros(many), np.ones((2, many), dtype=bool), 0.0, None)
    assert found.node is None or found.node.shape == (many,)
