"""Single ideas of the exact model: chains, boards, flow shops, symmetry, weighted makespans."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_instances import PATIENT_S, flow_shop, tiny
from strategies import instances

from lemix_opt import Instance, Objective
from lemix_opt.evaluation import objective_value
from lemix_opt.schedule import BACKWARD
from lemix_opt.validation import validate
from solvers import solve
from solvers.exact.chains import chains
from solvers.exact.constraints.symmetry import identical, renamed
from solvers.exact.data import tick_data
from solvers.exact.flow_shop import FlowShop
from solvers.exact.heads import closed_loop
from solvers.exact.limits import Limits
from solvers.exact.readout import schedule_from
from solvers.exact.start import first_boards


@given(instances(max_tasks=8), st.sampled_from(["jsq", "mix-rr"]))
@settings(max_examples=60, deadline=None)
def test_chains_lie_below_every_policy(instance: Instance, name: str) -> None:
    schedule = solve(instance, name).schedule
    assert schedule is not None
    assume(schedule.complete)
    chain = chains(instance, tick_data(instance, bound=True))
    rows, ends = schedule.operations, schedule.end_s() / instance.tick_s
    first = schedule.start_s() / instance.tick_s
    for i, phase, s, start, end in zip(
        rows.task, rows.phase, rows.stage, rows.start_s, rows.end_s, strict=True
    ):
        if phase <= BACKWARD:
            k = chain[i].steps.index((int(phase), int(s)))
            assert first[i] + chain[i].before[k] <= start / instance.tick_s + 1e-6
            assert start / instance.tick_s + chain[i].after[k] <= ends[i] + 1e-6
            assert end / instance.tick_s + chain[i].behind[k] <= ends[i] + 1e-6


@given(instances(max_tasks=8, tick_s=1.0))
@settings(max_examples=80, deadline=None)
def test_first_schedules_are_valid(instance: Instance) -> None:
    data = tick_data(instance, bound=False)
    chain = chains(instance, data)
    loop = closed_loop(instance, data, chain)
    for board in first_boards(instance, data, chain, loop, Limits(60, None)):
        node = np.array([board.node[i] for i in range(instance.tasks)], dtype=np.int64)
        assert validate(instance, schedule_from(instance, node, board.starts)) == []


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_insertion_into_a_flow_shop_takes_the_best_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jobs, machines = int(rng.integers(2, 7)), int(rng.integers(1, 5))
    gap = rng.integers(0, 4, (jobs, machines))
    gap[:, 0] = 0
    length, release = rng.integers(1, 9, (jobs, machines)), rng.integers(0, 20, jobs)
    shop = FlowShop(length, gap, release)

    def makespan(order: list[int]) -> int:
        free = [0] * machines
        for job in order:
            ready = int(release[job])
            for m in range(machines):
                ready = free[m] = max(ready + gap[job, m], free[m]) + int(length[job, m])
        return free[-1]

    order = rng.permutation(jobs - 1).tolist()
    places = [[*order[:k], jobs - 1, *order[k:]] for k in range(jobs)]
    found, value = shop.insert(order, jobs - 1)
    assert value == makespan(found) == min(map(makespan, places))
    best = shop.improve(shop.neh(), 5, rng)
    assert sorted(best) == list(range(jobs))
    if jobs <= 5:
        assert makespan(best) >= min(
            makespan(list(order)) for order in itertools.permutations(range(jobs))
        )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_renaming_swaps_identical_nodes_only(seed: int) -> None:
    instance = tiny(seed, "async", False)
    data = tick_data(instance, bound=False)
    node = np.random.default_rng(seed).integers(0, instance.cluster.nodes, instance.tasks)
    new = renamed(instance, data, node)
    for i, j in itertools.combinations(range(instance.tasks), 2):
        assert (node[i] == node[j]) == (new[i] == new[j])
    alike = {n: group for group in identical(instance, data) for n in group}
    for old, name in zip(node.tolist(), new.tolist(), strict=True):
        assert name in alike.get(old, [old])


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=30, deadline=None)
def test_a_weight_scales_the_makespan_and_its_bound(seed: int, weight: float) -> None:
    instance = tiny(seed, "async", False, most=9)
    plain = solve(instance, "cpsat", Objective(makespan=1), time_limit_s=PATIENT_S)
    scaled = solve(instance, "cpsat", Objective(makespan=weight), time_limit_s=PATIENT_S)
    assert isinstance(plain.objective, float)
    assert scaled.objective == pytest.approx(weight * plain.objective)
    assert scaled.lower_bound == pytest.approx(weight * plain.objective)


def test_flow_shops_on_a_coarse_grid_keep_their_bound() -> None:
    fine = flow_shop([[3, 5, 2], [4, 1, 7], [2, 2, 3]])
    truth = solve(fine, time_limit_s=PATIENT_S).objective
    found = solve(replace(fine, tick_s=2.0), time_limit_s=PATIENT_S)
    assert found.schedule is not None
    assert isinstance(found.lower_bound, float)
    assert isinstance(truth, float)
    assert found.lower_bound <= truth
    assert objective_value(fine, found.schedule, Objective(makespan=1)) == found.objective
