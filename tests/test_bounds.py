"""Bounds stay below every optimum, and the priced chains are what enumeration finds."""

from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import (
    EVERY_TERM,
    MODES,
    PATIENT_S,
    REGULAR,
    random_instance,
    regular_value,
    tiny,
)

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from lemix_opt.errors import UnsupportedError
from solvers import solve
from solvers.bounds.front import lower_bound, start_windows
from solvers.bounds.lagrangian import Relaxation, ascend, relaxation_of
from solvers.bounds.quiet import quiet_before
from solvers.exact.data import tick_data
from solvers.normal_form import NormalForm

RESPONSES = Objective(inference_response=2, training_response=1, late_penalty_s=3)


def relaxation(instance: Instance, objective: Objective = RESPONSES) -> Relaxation:
    data = tick_data(instance, bound=True)
    found = relaxation_of(instance, data, objective.weights, data.release)
    assert found is not None
    return found


def cheapest(
    instance: Instance, r: Relaxation, gpu: np.ndarray, memory: np.ndarray, clique: np.ndarray
) -> float:
    """Enumerate starts of one class in a short time; one tick is one second."""
    chains, stages = r.chains, gpu.shape[1]
    last = r.horizon + int(chains.span.max()) + 1

    def price(prices: np.ndarray, s: int, a: int, b: int) -> float:
        return float(prices[0, s, a : min(b, r.horizon)].sum())

    def paths(i: int, first: int) -> dict[tuple[int, int], float]:
        """Least cost by end of the first forward and end of the first stage's backward."""
        trains = bool(chains.training[i])
        count = 2 * stages if trains else stages
        found: dict[tuple[int, int], float] = {}
        for starts in product(range(first, last), repeat=count):
            at, cost, begun = 0, 0.0, {}
            legal = True
            for k, start in enumerate(starts):
                legal = legal and start >= at
                if not legal:
                    break
                s = k if k < stages else 2 * stages - 1 - k
                stop = start + int(chains.length[0, i, k])
                cost += price(gpu, s, start, start + int(chains.busy[0, i, k]))
                for row, there in enumerate(clique):
                    cost += chains.runs[row, 0, i, s] * price(there, s, start, stop)
                begun.setdefault(s, start)
                if not trains or k >= stages:
                    cost += chains.held[0, i, s] * price(memory, s, begun[s], stop)
                    for row, there in enumerate(clique):
                        cost += chains.holds[row, 0, i, s] * price(there, s, begun[s], stop)
                at = stop + (int(chains.pause[0, i, k]) if k + 1 < count else 0)
            if not legal:
                continue
            end = at + int(chains.closing[0]) * trains
            cost += chains.weight[i] * (end - chains.release[i])
            cost += chains.penalty[i] * (end > chains.due[i])
            key = (starts[0] + int(chains.length[0, i, 0]), at)
            found[key] = min(found.get(key, inf), float(cost))
        return found

    total = 0.0
    reached = {0: 0.0}
    for i in range(instance.tasks):
        head = int(chains.head[i])
        if not chains.training[i] or instance.release_mode == "open":
            total += min(paths(i, head).values())
            continue
        which = 0 if instance.release_mode == "async" else 1
        after: dict[int, float] = {}
        for event, cost in reached.items():
            for key, more in paths(i, max(head, event)).items():
                after[key[which]] = min(after.get(key[which], inf), cost + more)
        reached = after
    offered = float((r.nodes[:, None, None] * gpu).sum() + (r.room[:, :, None] * memory).sum())
    offered += float((r.nodes[:, None, None] * clique).sum())
    return total + min(reached.values()) - offered


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES))
def test_priced_chains_are_the_cheapest(seed: int, mode: str) -> None:
    rng = np.random.default_rng(seed)
    tasks, stages = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    kind = rng.integers(0, 2, tasks) if stages == 1 else np.zeros(tasks, dtype=int)
    shape = (1, tasks, stages)
    instance = Instance(
        Cluster(1, stages, 4 * 2.0**20),
        Workload(kind, np.sort(rng.integers(0, 3, tasks)), 1, 8, slo_s=rng.integers(1, 6, tasks)),
        Costs(
            rng.integers(1, 3, shape),
            rng.integers(0, 3, shape),
            rng.integers(0, 5, shape) * 2.0**20,
            0.0,
            rng.integers(0, 2, (1, stages)),
            rng.integers(0, 2, (1, tasks, stages - 1)),
        ),
        release_mode=mode,
        tick_s=1.0,
    )
    r = relaxation(instance)
    size = (1, stages, r.horizon)
    gpu, memory = rng.integers(0, 4, size) * 1.0, rng.integers(0, 2, size) * 1.0
    clique = rng.integers(0, 3, (len(r.chains.runs), *size)) * 1.0
    value = r.value_s(gpu, memory, clique)
    assert value == pytest.approx(cheapest(instance, r, gpu, memory, clique), rel=1e-7, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans())
def test_never_above_the_optimum(seed: int, mode: str, fifo: bool) -> None:
    instance = tiny(seed, mode, fifo)
    best = optimum(instance, lambda ends: regular_value(instance, ends))
    assert lower_bound(instance, REGULAR, evaluations=60).seconds <= best + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(MODES),
    st.sampled_from([0.7, 1.0, 3.0]),
    st.sampled_from([EVERY_TERM, RESPONSES, Objective(makespan=1), Objective(node_time=1)]),
)
def test_never_above_a_schedule(seed: int, mode: str, tick: float, objective: Objective) -> None:
    """Two node classes, any term, on and off the time grid."""
    instance = random_instance(seed, mode, False)
    rough = Instance(
        instance.cluster, instance.workload, instance.costs, release_mode=mode, tick_s=tick
    )
    found = solve(instance, "anneal", objective, deterministic_limit=200)
    assert found.objective is not None
    assert lower_bound(rough, objective, evaluations=40).seconds <= found.objective + 1e-9


def test_prices_beat_single_chains_where_gpus_are_scarce() -> None:
    """Six requests of 2 s on one GPU: 2 + 4 + ... + 12 s; the multipliers certify the bound."""
    workload = Workload([0] * 6, [0.0] * 6, 1, 8)
    costs = Costs([[[2.0]] * 6], 0.0, 0.0, 0.0)
    instance = Instance(Cluster(1, 1, 1.0), workload, costs, tick_s=0.25)
    again = relaxation(instance, Objective(inference_response=1))
    found = ascend(again, None, time_limit_s=60, evaluations=4000)
    assert found.seconds == pytest.approx(42, rel=0.01)
    assert found.seconds <= 42
    assert again.value_s(**found.multipliers) == found.seconds


def test_rules_beyond_the_model_are_refused() -> None:
    workload = Workload([1], [0.0], 1, 8)
    costs = Costs([[[1.0]]], [[[1.0]]], 0.0, 0.0)
    instance = Instance(Cluster(1, 1, 1.0), workload, costs, pipeline="gpipe", micro_batches=2)
    with pytest.raises(UnsupportedError):
        lower_bound(instance, RESPONSES)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.sampled_from([REGULAR, RESPONSES]))
def test_optimal_starts_lie_in_their_windows(seed: int, mode: str, objective: Objective) -> None:
    normal = NormalForm.of(random_instance(seed, mode, False), objective)
    instance, objective = normal.instance, normal.objective
    best = solve(instance, "cpsat", objective, time_limit_s=PATIENT_S)
    assert best.schedule is not None
    assert isinstance(best.objective, float)
    bound = lower_bound(instance, objective, upper_s=best.objective, evaluations=100)
    if np.any(quiet_before(instance, tick_data(instance, bound=True))):
        # Then the windows hold for some best schedule only; see `test_bounds_quiet`.

        return
    found = start_windows(instance, objective, bound, best.objective)
    rows = best.schedule.operations
    starts = zip(rows.task, rows.phase, rows.stage, rows.start_s, strict=True)
    for task, phase, stage, start_s in starts:
        key = (int(task), int(phase), int(stage))
        if key in found:
            assert found[key][0] <= start_s <= found[key][1]
