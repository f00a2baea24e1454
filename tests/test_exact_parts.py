"""Whatever parts are switched on, the optimum stays that of brute force."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import PATIENT_S, REGULAR, flow_shop, regular_value, tiny, unlike

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from lemix_opt.errors import FieldError, UnknownNameError
from lemix_opt.validation import validate
from solvers import solve
from solvers.exact.parts import PARTS, Parts

SUBSETS = st.fixed_dictionaries({name: st.booleans() for name in PARTS})
MAKESPAN = Objective(makespan=1)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["async", "sync", "open"]),
    st.booleans(),
    SUBSETS,
    st.sampled_from([REGULAR, MAKESPAN]),
)
@settings(max_examples=150, deadline=None)
def test_any_parts_give_the_optimum_of_brute_force(
    seed: int, mode: str, fifo: bool, parts: dict[str, bool], objective: Objective
) -> None:
    instance = tiny(seed, mode, fifo)
    check(instance, parts, objective)


@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["async", "sync", "open"]), st.booleans(), SUBSETS
)
@settings(max_examples=100, deadline=None)
def test_any_parts_give_it_for_node_classes(
    seed: int, mode: str, fifo: bool, parts: dict[str, bool]
) -> None:
    instance = unlike(tiny(seed, mode, fifo), seed)
    check(instance, parts, MAKESPAN)


@given(st.integers(0, 2**32 - 1), SUBSETS, st.sampled_from(["async", "open"]))
@settings(max_examples=60, deadline=None)
def test_any_parts_give_it_for_one_stage(seed: int, parts: dict[str, bool], mode: str) -> None:
    rng = np.random.default_rng(seed)
    tasks, nodes = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    kind = np.zeros(tasks, dtype=int)
    kind[rng.integers(0, tasks)] = int(rng.integers(0, 2))
    shape = (nodes, tasks, 1)
    costs = Costs(rng.integers(1, 6, shape), rng.integers(0, 4, shape), 0.0, np.zeros((nodes, 1)))
    work = Workload(kind, np.sort(rng.integers(0, 6, tasks)), 1, 8)
    cluster = Cluster(nodes, 1, 1.0, np.arange(nodes))
    check(Instance(cluster, work, costs, release_mode=mode, tick_s=1.0), parts, MAKESPAN)


def check(instance: Instance, parts: dict[str, bool], objective: Objective) -> None:
    result = solve(instance, "cpsat", objective, time_limit_s=PATIENT_S, parts=parts)
    assert result.status == "optimal"
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []
    if objective is MAKESPAN:
        wanted = optimum(instance, lambda ends: max(ends, default=0.0))
    else:
        wanted = optimum(instance, lambda ends: regular_value(instance, ends))
    assert result.objective == pytest.approx(wanted, abs=1e-6)


def test_parts_are_given_as_a_whole_or_by_name() -> None:
    shop = flow_shop([[3, 1], [2, 2]])
    for parameters in (
        {"parts": Parts(order=False)},
        {"parts": {"order": False}},
        {"order": False},
    ):
        found = solve(shop, "cpsat", **parameters)  # type: ignore[arg-type]
        assert found.objective == 6.0
        assert found.parameters["parts"]["order"] is False
        assert found.parameters["parts"]["loads"] is True


def test_unknown_parts_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'symmetry'"):
        solve(flow_shop([[1, 1]]), "cpsat", symetry=True)
    with pytest.raises(UnknownNameError, match="Did you mean 'energy'"):
        solve(flow_shop([[1, 1]]), "cpsat", parts={"energie": True})
    with pytest.raises(FieldError, match=r"parts\.loop"):
        solve(flow_shop([[1, 1]]), "cpsat", loop=1)
