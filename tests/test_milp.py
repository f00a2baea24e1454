"""HiGHS against brute force, against CP-SAT and against its own limits."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import brute_starts
import numpy as np
import pytest
from brute_force import optimum
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from profiles import examples
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
from test_cli import lemix

import solvers.milp
from instances import write
from lemix_opt import Cluster, Costs, Instance, Objective, Schedule, Workload
from lemix_opt.errors import FieldError, LemixError, UnknownNameError, UnsupportedError
from lemix_opt.evaluation import objective_value
from lemix_opt.objective import TERMS
from lemix_opt.result import Result, Value
from lemix_opt.validation import validate
from solvers import solve
from solvers.milp.units import common_unit

SEEDS = st.integers(0, 2**32 - 1)
MODES = st.sampled_from(["async", "sync", "open"])


def proven(instance: Instance, objective: Objective) -> Result:
    result = solve(instance, "milp", objective, time_limit_s=PATIENT_S)
    assert result.status == "optimal", result.explanation
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []
    assert objective_value(instance, result.schedule, objective) == result.objective
    below = np.asarray(result.lower_bound) <= np.asarray(result.objective)
    assert below.all()
    return result


@given(SEEDS, MODES, st.booleans(), st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_the_optimum_is_that_of_brute_force(seed: int, mode: str, fifo: bool, differ: bool) -> None:
    instance = tiny(seed, mode, fifo, most=6)
    instance = unlike(instance, seed) if differ else instance
    wanted = optimum(instance, lambda ends: regular_value(instance, ends))
    assert proven(instance, REGULAR).objective == pytest.approx(wanted, abs=1e-6)


@given(SEEDS, MODES, st.booleans(), st.sampled_from(sorted(IDLE_OBJECTIVES)))
@settings(max_examples=examples(20), deadline=None)
def test_idle_and_node_time_are_those_of_every_integer_start(
    seed: int, mode: str, fifo: bool, name: str
) -> None:
    instance = tiny(seed, mode, fifo, most=4, longest=2)
    assume(brute_starts.horizon(instance) <= 12)
    objective = IDLE_OBJECTIVES[name]

    def value(placed: brute_starts.Placed) -> float:
        return idle_value(instance, objective, placed)

    wanted = brute_starts.optimum(instance, value)
    assert proven(instance, objective).objective == pytest.approx(wanted, abs=1e-6)


@st.composite
def objectives(draw: st.DrawFn) -> Objective:
    """Draw weights of one to three terms, at times in an order of importance."""
    names = draw(st.lists(st.sampled_from(TERMS), min_size=1, max_size=3, unique=True))
    prices = {name: draw(st.sampled_from([0.3, 0.5, 1.0, 2.0, 0.123456789])) for name in names}
    if "late" in prices:
        prices["late_penalty_s"] = prices.pop("late")
    return Objective(**prices, lexicographic=tuple(names) if draw(st.booleans()) else ())


@given(SEEDS, MODES, st.booleans(), st.booleans(), objectives())
@settings(max_examples=examples(40), deadline=None)
def test_both_exact_solvers_prove_the_same(
    seed: int, mode: str, fifo: bool, differ: bool, objective: Objective
) -> None:
    instance = tiny(seed, mode, fifo, most=5)
    instance = unlike(instance, seed) if differ else instance
    other = solve(instance, "cpsat", objective, time_limit_s=PATIENT_S)
    ours = solve(instance, "milp", objective, time_limit_s=PATIENT_S)
    assert ours.schedule is not None
    assert validate(instance, ours.schedule) == []
    pairs = zip(*map(levels, (ours, other)), strict=True)
    for (found, low, status), (wanted, other_low, other_status) in pairs:
        assert low <= wanted + 1e-6
        assert other_low <= found + 1e-6
        if status == other_status == "optimal":
            assert found == pytest.approx(wanted, abs=1e-5)
        else:
            # A price without a common unit leaves a level below it, or all of cpsat's, unproven.
            assert 0.123456789 in objective.weights.values()
            break


def levels(result: Result) -> list[tuple[float, float, str]]:
    values, lows = np.atleast_1d(result.objective), np.atleast_1d(result.lower_bound)
    return list(zip(values, lows, result.level_status or (result.status,), strict=True))


@given(SEEDS, MODES, st.booleans(), st.sampled_from([2.0, 0.75, 3.0]))
@settings(max_examples=examples(25), deadline=None)
def test_off_the_grid_bound_and_schedule_enclose_the_optimum(
    seed: int, mode: str, fifo: bool, tick: float
) -> None:
    fine = tiny(seed, mode, fifo, most=5)
    coarse = replace(fine, tick_s=tick)
    truth = optimum(fine, lambda ends: regular_value(fine, ends))
    result = solve(coarse, "milp", REGULAR, time_limit_s=PATIENT_S)
    assert result.schedule is not None
    assert validate(coarse, result.schedule) == []
    assert isinstance(result.lower_bound, float)
    assert isinstance(result.objective, float)
    assert result.lower_bound <= truth + 1e-6
    assert result.objective >= truth - 1e-6


@given(
    instances(max_tasks=2, tick_s=1.0),
    st.sampled_from([REGULAR, Objective(idle=1), Objective(node_time=1, makespan=0.3)]),
)
@settings(max_examples=examples(15), deadline=None)
def test_the_result_is_never_worse_than_a_policys(instance: Instance, objective: Objective) -> None:
    by_policy = solve(instance, "lemix-reference", objective)
    assume(by_policy.status == "feasible")
    assume(by_policy.schedule is not None and not by_policy.schedule.gave_way)
    result = solve(instance, "milp", objective, time_limit_s=0.5, initial=by_policy.schedule)
    assert result.schedule is not None
    assert validate(instance, result.schedule) == []
    assert isinstance(result.objective, float)
    assert isinstance(by_policy.objective, float)
    assert isinstance(result.lower_bound, float)
    assert result.lower_bound <= result.objective <= by_policy.objective


def test_an_optimal_start_is_returned_and_told_of_once() -> None:
    instance = tiny(3, "async", False)
    best = solve(instance, "cpsat", REGULAR)
    told: list[tuple[Schedule, Value]] = []
    result = solve(
        instance,
        "milp",
        REGULAR,
        seed=5,
        workers=2,
        initial=best.schedule,
        on_solution=lambda schedule, value: told.append((schedule, value)),
    )
    assert (result.status, result.objective) == ("optimal", best.objective)
    assert [value for _, value in told] == [best.objective]
    assert (result.seed, result.parameters["workers"]) == (5, 2)
    assert result.trajectory[-1][1:] == (result.objective, result.lower_bound)


def test_limits_leave_a_schedule_and_a_bound() -> None:
    shop = flow_shop([[3, 5, 2], [4, 1, 3], [2, 2, 4], [5, 3, 1]])
    truth = solve(shop, "cpsat", Objective(inference_response=1))
    for limits in ({"time_limit_s": 1e-3}, {"deterministic_limit": 1.0}):
        result = solve(shop, "milp", Objective(inference_response=1), **limits)
        assert result.schedule is not None
        assert validate(shop, result.schedule) == []
        assert isinstance(result.objective, float)
        assert isinstance(truth.objective, float)
        assert result.objective >= truth.objective
        assert result.lower_bound is None or result.lower_bound <= truth.objective  # type: ignore[operator]


def test_lexicographic_levels_are_proven_in_order() -> None:
    instance = tiny(7, "async", False)
    order = ("makespan", "inference_response")
    strict = Objective(makespan=1, inference_response=1, lexicographic=order)
    result = proven(instance, strict)
    assert result.level_status == ("optimal", "optimal")
    assert result.objective == solve(instance, "cpsat", strict).objective
    assert result.lower_bound == result.objective


def test_no_task_and_one_task() -> None:
    shop = flow_shop([[2, 3]])
    everything = Objective(1, 1, 1, 1, 1, 1)
    assert proven(shop.window(np.array([], dtype=int)), everything).objective == 0.0
    assert proven(shop, Objective(makespan=1)).objective == 5.0
    assert proven(shop, Objective(idle=1)).objective == 5.0


@pytest.mark.parametrize("unit_bytes", [1.0, 2.0**20, 333333333.0, 1e9 / 3])
@pytest.mark.parametrize("room", [5, 6])
def test_memory_is_compared_by_the_byte(unit_bytes: float, room: int) -> None:
    costs = Costs(np.ones((1, 2, 2)), np.ones((1, 2, 2)), 3 * unit_bytes, 0.0)
    cluster = Cluster(1, 2, room * unit_bytes)
    both = Instance(cluster, Workload([1, 1], [0.0, 0.0], 1, 8), costs, release_mode="open")
    wanted = 6.0 if room == 6 else 8.0
    assert proven(replace(both, tick_s=1.0), Objective(makespan=1)).objective == wanted


def test_a_byte_too_much_does_not_fit() -> None:
    costs = Costs(np.ones((1, 2, 2)), np.ones((1, 2, 2)), [[[4e10, 1], [4e10 + 1, 1]]], 0.0)
    work = Workload([1, 1], [0.0, 0.0], 1, 8)
    tight = Instance(Cluster(1, 2, 8e10), work, costs, release_mode="open", tick_s=1.0)
    roomy = replace(tight, cluster=Cluster(1, 2, 8e10 + 1))
    assert proven(tight, Objective(makespan=1)).objective == 8.0
    assert proven(roomy, Objective(makespan=1)).objective == 6.0


@given(SEEDS, MODES, st.booleans())
@settings(max_examples=examples(40), deadline=None)
def test_memory_that_binds_is_kept_as_by_brute_force(seed: int, mode: str, fifo: bool) -> None:
    rng = np.random.default_rng(seed)
    kind = [1, 1] + [0] * int(rng.integers(2))
    shape = (1, len(kind), 2)
    costs = Costs(
        rng.integers(1, 3, shape),
        rng.integers(1, 3, shape),
        rng.integers(1, 5, shape) * 2.0**20,
        0.0,
    )
    release = np.sort(rng.integers(0, 4, len(kind)))
    work = Workload(kind, release, 1, 8, weight=rng.integers(1, 4, len(kind)), slo_s=5.0)
    cluster = Cluster(1, 2, 4 * 2.0**20)
    instance = Instance(cluster, work, costs, release_mode=mode, fifo=fifo, tick_s=1.0)
    wanted = optimum(instance, lambda ends: regular_value(instance, ends))
    assert proven(instance, REGULAR).objective == pytest.approx(wanted, abs=1e-6)


def test_memory_keeps_two_trainings_apart() -> None:
    costs = Costs(np.ones((1, 2, 2)), np.ones((1, 2, 2)), 3 * 2.0**20, 0.0)
    work = Workload([1, 1], [0.0, 0.0], 1, 8)
    tight = Instance(Cluster(1, 2, 5 * 2.0**20), work, costs, release_mode="open", tick_s=1.0)
    roomy = replace(tight, cluster=Cluster(1, 2, 6 * 2.0**20))
    assert proven(tight, Objective(makespan=1)).objective == 8.0
    assert proven(roomy, Objective(makespan=1)).objective == 6.0


def test_fifo_forbids_to_overtake_behind_a_long_hop() -> None:
    costs = Costs(np.full((1, 2, 2), 2.0), 0.0, 0.0, 0.0, hop_s=np.array([[[10.0], [0.0]]]))
    free = Instance(Cluster(1, 2, 1.0), Workload([0, 0], [0.0, 1.0], 1, 8), costs, tick_s=1.0)
    both = Objective(inference_response=1)
    assert proven(free, both).objective == 14.0 + 5.0
    assert proven(replace(free, fifo=True), both).objective == 17.0 + 4.0


def test_programs_beyond_the_limit_say_what_to_do() -> None:
    shop = flow_shop([[3, 5], [4, 1], [2, 2]])
    with pytest.raises(UnsupportedError, match=r"variables.*at most 100.*tick_s.*cpsat"):
        solve(replace(shop, tick_s=0.1), "milp", REGULAR, max_nonzeros=100)
    fine = replace(shop, tick_s=1e-9)
    with pytest.raises(LemixError, match="variables"):
        solve(fine, "milp", Objective(idle=1))
    with pytest.raises(UnsupportedError, match="horizon"):
        solve(flow_shop([[2**51, 1]]), "milp")


def test_unknown_parameters_and_rules_outside_are_refused() -> None:
    shop = flow_shop([[1, 1]])
    with pytest.raises(UnknownNameError, match="Did you mean 'milp'"):
        solve(shop, "mlip")
    with pytest.raises(UnknownNameError, match="Did you mean 'max_nonzeros'"):
        solve(shop, "milp", max_nonzero=5)
    with pytest.raises(FieldError, match="max_nonzeros"):
        solve(shop, "milp", max_nonzeros=0)
    with pytest.raises(UnsupportedError, match="gpu_sharing"):
        solve(replace(shop, fifo=False, gpu_sharing="reference_threads"), "milp")


def test_the_command_solves_with_milp(tmp_path: Path) -> None:
    write(flow_shop([[3, 5], [4, 1], [2, 2]]), tmp_path / "shop.json")
    run = lemix("solve", "shop.json", "--solver", "milp", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["solver"], found["status"], found["objective"]) == ("milp", "optimal", 11.0)


def test_units_of_prices() -> None:
    assert common_unit([4.0, 1.0, 2064.0, 0.0]) == 1.0
    assert common_unit([0.3, 0.2]) == pytest.approx(0.1)
    assert common_unit([6.0, 4.0]) == 2.0
    assert common_unit([0.0]) == 1.0
    assert common_unit([1.0, np.pi]) is None
    assert common_unit([1e7, 1.0]) is None


def test_no_model_is_shared_with_cpsat() -> None:
    imported = set()
    for path in sorted(Path(solvers.milp.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
    # Nor its rounding: a fault there would pass both.
    shared = ("solvers.exact", "lemix_opt.grid", "ortools")
    assert not [name for name in imported if name.startswith(shared)]
