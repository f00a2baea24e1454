"""CP-SAT against brute force, published optima and every policy."""

from __future__ import annotations

import math
from dataclasses import replace

import brute_starts
import numpy as np
import pytest
from brute_force import optimum
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_instances import (
    IDLE_OBJECTIVES,
    PATIENT_S,
    REGULAR,
    flow_shop,
    idle_value,
    regular_value,
    tiny,
    unlike,
)
from strategies import instances

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from lemix_opt.errors import UnknownNameError, UnsupportedError
from lemix_opt.evaluation import objective_value
from lemix_opt.validation import validate
from solvers import solve
from solvers.exact import terms


@given(st.integers(0, 2**32 - 1), st.sampled_from(["async", "sync", "open"]), st.booleans())
@settings(max_examples=120, deadline=None)
def test_the_optimum_is_that_of_brute_force(seed: int, mode: str, fifo: bool) -> None:
    instance = tiny(seed, mode, fifo)
    result = solve(instance, "cpsat", REGULAR, time_limit_s=PATIENT_S)
    assert result.status == "optimal"
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []
    wanted = optimum(instance, lambda ends: regular_value(instance, ends))
    assert result.objective == pytest.approx(wanted, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["async", "sync", "open"]), st.booleans())
@settings(max_examples=120, deadline=None)
def test_nodes_may_differ_in_every_cost_and_in_memory(seed: int, mode: str, fifo: bool) -> None:
    instance = unlike(tiny(seed, mode, fifo), seed)
    result = solve(instance, "cpsat", REGULAR, time_limit_s=PATIENT_S)
    assert result.status == "optimal"
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []
    wanted = optimum(instance, lambda ends: regular_value(instance, ends))
    assert result.objective == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("mode", ["async", "sync", "open"])
@pytest.mark.parametrize("fifo", [False, True])
def test_the_optimum_is_that_of_brute_force_up_to_ten_operations(mode: str, fifo: bool) -> None:
    checked = 0
    for seed in range(400):
        instance = tiny(seed, mode, fifo, most=10)
        size = int((instance.workload.kind + 1).sum()) * instance.cluster.stages
        if size < 8 or instance.tasks < 2:
            continue
        result = solve(instance, "cpsat", REGULAR, time_limit_s=PATIENT_S)
        wanted = optimum(instance, lambda ends, i=instance: regular_value(i, ends))  # type: ignore[misc]
        assert result.objective == pytest.approx(wanted, abs=1e-6), seed
        checked += 1
        if checked == 8:
            break
    assert checked == 8


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["async", "sync", "open"]),
    st.booleans(),
    st.sampled_from(sorted(IDLE_OBJECTIVES)),
)
@settings(max_examples=80, deadline=None)
def test_idle_and_node_time_are_those_of_every_integer_start(
    seed: int, mode: str, fifo: bool, name: str
) -> None:
    instance = tiny(seed, mode, fifo, most=6, longest=2)
    assume(brute_starts.horizon(instance) <= 12)
    objective = IDLE_OBJECTIVES[name]

    def value(placed: brute_starts.Placed) -> float:
        return idle_value(instance, objective, placed)

    result = solve(instance, "cpsat", objective, time_limit_s=PATIENT_S)
    assert result.status == "optimal"
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []
    assert result.objective == pytest.approx(brute_starts.optimum(instance, value), abs=1e-6)


@given(
    instances(max_tasks=4),
    st.sampled_from([REGULAR, Objective(idle=1), Objective(node_time=1, makespan=0.3)]),
)
@settings(max_examples=40, deadline=None)
def test_bound_and_optimum_lie_below_every_policy_also_off_the_grid(
    instance: Instance, objective: Objective
) -> None:
    by_policy = solve(instance, "lemix-reference", objective)
    assume(by_policy.status == "feasible")
    assume(by_policy.schedule is not None and not by_policy.schedule.gave_way)
    result = solve(instance, "cpsat", objective, time_limit_s=3, initial=by_policy.schedule)
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []
    assert isinstance(result.objective, float)
    assert isinstance(by_policy.objective, float)
    assert isinstance(result.lower_bound, float)
    assert result.lower_bound <= result.objective + 1e-9
    assert result.objective <= by_policy.objective + 1e-9


def test_johnsons_rule_gives_the_optimum_of_two_machines() -> None:
    jobs = [[5, 2], [1, 6], [9, 7], [3, 8], [10, 4]]
    order = sorted((j for j in jobs if j[0] < j[1]), key=lambda j: j[0])
    order += sorted((j for j in jobs if j[0] >= j[1]), key=lambda j: -j[1])
    first = second = 0
    for a, b in order:
        first += a
        second = max(first, second) + b
    result = solve(flow_shop(jobs), time_limit_s=PATIENT_S)
    assert (result.status, result.objective) == ("optimal", float(second))


def test_lexicographic_levels_are_proven_in_order() -> None:
    instance = tiny(7, "async", False)
    weighted = solve(instance, "cpsat", Objective(makespan=1, inference_response=1))
    strict = Objective(
        makespan=1, inference_response=1, lexicographic=("makespan", "inference_response")
    )
    result = solve(instance, "cpsat", strict)
    least = solve(instance, "cpsat", Objective(makespan=1))
    assert result.level_status == ("optimal", "optimal")
    assert isinstance(result.objective, tuple)
    assert result.objective[0] == least.objective
    assert isinstance(weighted.objective, float)
    assert sum(result.objective) >= weighted.objective - 1e-9


def test_no_tasks_and_horizons_beyond_the_grid() -> None:
    instance = flow_shop([[1, 1]])
    empty = solve(instance.window(np.array([], dtype=int)), time_limit_s=PATIENT_S)
    assert (empty.status, empty.objective) == ("optimal", 0.0)
    with pytest.raises(UnsupportedError, match="horizon"):
        solve(flow_shop([[2**51, 1]]))


def test_unknown_solvers_and_parameters_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cpsat'"):
        solve(flow_shop([[1, 1]]), "cpsatt")
    with pytest.raises(UnknownNameError, match="alpha"):
        solve(flow_shop([[1, 1]]), "lemix-reference", alfa=1)


def test_a_coarse_tick_never_gives_a_false_bound() -> None:
    fine = flow_shop([[3, 5], [4, 1], [2, 2]])
    truth = solve(fine, time_limit_s=PATIENT_S)
    coarse = replace(fine, tick_s=2.0)
    result = solve(coarse, time_limit_s=PATIENT_S)
    assert result.schedule is not None
    assert objective_value(fine, result.schedule, Objective(makespan=1)) == result.objective
    assert isinstance(result.lower_bound, float)
    assert isinstance(truth.objective, float)
    assert isinstance(result.objective, float)
    assert result.lower_bound <= truth.objective <= result.objective
    assert result.rounding_gap is not None


@pytest.mark.parametrize("solver", ["cpsat", "portfolio", "anneal", "lns"])
@pytest.mark.parametrize("held", [3.0, 2.5, 5.0 - 2**-40, 2**20 + 0.5])
def test_what_fits_stays_fitting_in_any_unit_of_memory(solver: str, held: float) -> None:
    costs = Costs(np.ones((1, 2, 1)), 0.0, held, 0.0)
    instance = Instance(Cluster(1, 1, max(held, 5.0)), Workload([0, 0], [0.0, 0.0], 1, 8), costs)
    # Two at once would need more than there is, or 5 bytes of 5.
    limit_s = PATIENT_S if solver in ("cpsat", "portfolio") else 2.0
    result = solve(instance, solver, time_limit_s=limit_s)
    assert result.schedule is not None
    assert result.objective == pytest.approx(2.0)
    assert result.lower_bound is None or result.lower_bound == pytest.approx(2.0)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_costs_with_a_common_unit_become_whole_without_loss(
    multiples: list[int], unit: float
) -> None:
    costs = [m / 12 * unit for m in multiples]
    factors, scale, exact = terms.whole_factors(costs, 1e12)
    assert exact
    assert [f / scale for f in factors] == pytest.approx(costs, rel=1e-12)
    assert math.gcd(*factors) in (0, 1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.floats(10, 1e12))
def test_costs_without_one_are_rounded_down(costs: list[float], most: float) -> None:
    factors, scale, _ = terms.whole_factors(costs, most)
    for factor, cost in zip(factors, costs, strict=True):
        assert 0 <= factor <= most * (1 + 1e-9)
        assert factor / scale <= cost * (1 + 1e-9)
