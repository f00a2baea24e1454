"""Branch and bound over orders against all orders, and against Taillard's published optima."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.benchmarks import suite
from solvers import solve
from solvers.exact.flow_shop import FlowShop
from solvers.exact.order_tree import OrderTree


def makespan(shop: FlowShop, order: tuple[int, ...]) -> int:
    """Every operation behind the one before it, of its job and of its machine."""
    free = [0] * len(shop.length[0])
    last = 0
    for job in order:
        last = shop.release[job]
        for m, (length, gap) in enumerate(zip(shop.length[job], shop.gap[job], strict=True)):
            last = free[m] = max(last + gap, free[m]) + length
    return max(free)


@st.composite
def shops(draw: st.DrawFn) -> FlowShop:
    jobs, machines = draw(st.integers(1, 5)), draw(st.integers(1, 4))

    def table(low: int, high: int, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        found = draw(st.lists(st.integers(low, high), min_size=size, max_size=size))
        return np.array(found, dtype=np.int64).reshape(shape)

    gap = table(0, draw(st.sampled_from([0, 3])), jobs, machines)
    gap[:, 0] = 0
    release = table(0, draw(st.sampled_from([0, 15])), jobs)
    return FlowShop(table(1, 9, jobs, machines), gap, release)


@given(shops(), st.integers(1, 3))
@settings(deadline=None)
def test_every_bound_on_the_way_holds_and_the_end_is_the_optimum(
    shop: FlowShop, piece: int
) -> None:
    orders = list(itertools.permutations(range(len(shop.length))))
    best = min(makespan(shop, order) for order in orders)
    tree = OrderTree(shop, list(orders[-1]))
    bounds = [tree.lower_bound]
    while not tree.proven:
        tree.explore(piece)
        bounds.append(tree.lower_bound)
    assert max(bounds) == bounds[-1] == tree.makespan == best
    assert makespan(shop, tuple(tree.order)) == best


@pytest.mark.parametrize(
    ("name", "optima"),
    [
        ("taillard-20x5", (1278, 1359, 1081, 1293, 1235, 1195, 1234, 1206, 1230, 1108)),
        ("taillard-50x5", (2724, 2834, 2621, 2751, 2863, 2829, 2725, 2683, 2552, 2782)),
    ],
)
def test_taillards_flow_shops_are_proven(name: str, optima: tuple[int, ...]) -> None:
    """Optima as published in Taillard's summary of his flow shops."""
    for case, units in zip(suite(name), optima, strict=True):
        result = solve(case.instance, objective=case.objectives["makespan"], time_limit_s=300)
        assert result.status == "optimal"
        assert result.objective == pytest.approx(units * case.instance.tick_s, abs=1e-9)
