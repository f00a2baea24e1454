"""`lower_bound`: the best of all bounds, with its certificate."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from solvers.bounds.anchor import Places, anchored
from solvers.bounds.assignment import assigned
from solvers.bounds.bound import Bound
from solvers.bounds.chains import Rows
from solvers.bounds.columns import MOST_REQUESTS, LateRequests
from solvers.bounds.combinatorial import chain_bound_s
from solvers.bounds.lagrangian import TERMS, Relaxation, ascend, relaxation_of
from solvers.bounds.windows import windows
from solvers.exact.chains import Chain, chains
from solvers.exact.data import TickData, tick_data
from solvers.exact.heads import closed_loop
from solvers.exact.readout import Key
from solvers.normal_form import NormalForm

LONGEST_LOOP = 400
"""Training tasks in a closed loop above which only releases count as heads."""
ANCHORED = "anchored lagrangian"
"""Name of the bound with the largest task's node apart."""
POOLED, AGAIN = 0.5, 0.3
"""Part of the limits that is spent before that node is taken apart, and the step after it."""


def heads(instance: Instance, data: TickData, chain: Sequence[Chain]) -> IntArray:
    """Return earliest starts, of training through its closed loop and the memory it fills."""
    head = data.release.copy()
    if int(instance.workload.is_training.sum()) <= LONGEST_LOOP:
        loop = closed_loop(instance, data, chain)
        tasks = np.array(loop.tasks, dtype=np.int64)
        head[tasks] = np.maximum(head[tasks], loop.head)
    return head


def lower_bound(
    instance: Instance,
    objective: Objective,
    time_limit_s: float = 10.0,
    *,
    upper_s: float | None = None,
    evaluations: float = math.inf,
) -> Bound:
    """Return the best lower bound of an instance's objective.

    It is computed from the first release on (`solvers.normal_form`) and holds for the instance as
    it is given, up to `lemix_opt.grid.NOISE_S` for every operation.

    Parameters
    ----------
    instance : Instance
        The problem; its rules must lie in the exact model.
    objective : Objective
        What is minimised; of a lexicographic objective the first level is bounded.
    time_limit_s : float, default 10
        Wall seconds.
    upper_s : float, optional
        Value of a known schedule, which speeds the Lagrangian bound up.
    evaluations : float, optional
        Limit on evaluations of the Lagrangian, for results that do not depend on the clock.

    Returns
    -------
    Bound
        In seconds, off the time grid too: times are rounded so that every schedule counts.

    Raises
    ------
    UnsupportedError
        If the instance's rules lie outside the exact model.
    """
    normal = NormalForm.of(instance, objective)
    upper_s = None if upper_s is None else normal.normal_seconds(upper_s)
    found = bound_from_zero(
        normal.instance, normal.objective, time_limit_s, upper_s=upper_s, evaluations=evaluations
    )
    return replace(found, seconds=normal.seconds(found.seconds))


def bound_from_zero(
    instance: Instance,
    objective: Objective,
    time_limit_s: float,
    *,
    upper_s: float | None = None,
    evaluations: float = math.inf,
) -> Bound:
    """Return `lower_bound` of an instance in normal form."""
    begin = time.perf_counter()
    data = tick_data(instance, bound=True)
    chain = chains(instance, data)
    head = heads(instance, data, chain)
    alone_s = chain_bound_s(instance, data, objective, chain, head)
    best = Bound(alone_s, "chains", "every task alone, loads of GPUs")
    problem = _Problem(instance, data, objective, tuple(chain), head)
    for bounded in (_assigned, _columns, _lagrangian):
        left_s = time_limit_s - (time.perf_counter() - begin)
        found = bounded(problem, upper_s, left_s, evaluations)
        if found is not None and found.seconds > best.seconds:
            best = found
    return best


def start_windows(
    instance: Instance, objective: Objective, bound: Bound, upper_s: float
) -> dict[Key, tuple[int, int]]:
    """Return first and last starts, in ticks, in schedules that cost at most `upper_s`.

    The instance is in normal form. Empty where the bound has no multipliers, off the time grid, and
    for lexicographic objectives; also where quiet times were left out while the objective has terms
    that a later end can lower.
    """
    data = tick_data(instance, bound=True)
    if not ("gpu" in bound.multipliers and data.exact) or objective.lexicographic:
        return {}
    chain = chains(instance, data)
    head = heads(instance, data, chain)
    places = anchored(instance, data) if bound.name == ANCHORED else None
    problem = _Problem(instance, data, objective, tuple(chain), head)
    relaxation = problem.relaxed(places)
    if relaxation is None:
        return {}
    if np.any(relaxation.quiet) and (objective.idle or objective.node_time):
        return {}
    return windows(relaxation, **bound.multipliers, upper_s=upper_s - problem.rest_s())


@dataclass(frozen=True)
class _Problem:
    instance: Instance
    data: TickData
    objective: Objective
    chain: tuple[Chain, ...]
    head: IntArray

    @property
    def weights(self) -> dict[str, float]:
        """Return the weights of the first level's terms, 0 for the others."""
        first = set(self.objective.levels[0])
        return {name: w if name in first else 0.0 for name, w in self.objective.weights.items()}

    def rest_s(self, covered: tuple[str, ...] = TERMS) -> float:
        """Return a bound of the terms that are not covered otherwise.

        The least of a sum is no less than the sum of the leasts.
        """
        left = {name: 0.0 if name in covered else w for name, w in self.weights.items()}
        if not any(left.values()):
            return 0.0
        rest = Objective(
            makespan=left["makespan"],
            inference_response=left["inference_response"],
            training_response=left["training_response"],
            late_penalty_s=left["late"],
            idle=left["idle"],
            node_time=left["node_time"],
        )
        return chain_bound_s(self.instance, self.data, rest, self.chain, self.head)

    def relaxed(self, places: Places | None) -> Relaxation | None:
        """Return the relaxation of the terms it covers, or None where it says nothing."""
        weights = self.weights
        if self.instance.tasks == 0 or not any(weights[name] for name in TERMS):
            return None
        return relaxation_of(self.instance, self.data, weights, self.head, places)


def _assigned(
    problem: _Problem, upper_s: float | None, time_limit_s: float, evaluations: float
) -> Bound | None:
    """Return the bound of places in the queues of a stage, where all tasks are requests."""
    instance, weight = problem.instance, problem.weights["inference_response"]
    if weight <= 0 or not np.all(instance.workload.is_inference):
        return None
    found = assigned(instance, problem.data, problem.head, POOLED * time_limit_s)
    return Bound(
        weight * found.seconds + problem.rest_s(("inference_response",)),
        "assignment",
        f"places in the queues of stage {found.stage}, {len(found.cuts) + 1} bursts",
        {"stage": np.array([float(found.stage)]), "cuts": np.array(found.cuts, dtype=np.float64)},
    )


def _columns(
    problem: _Problem, upper_s: float | None, time_limit_s: float, evaluations: float
) -> Bound | None:
    """Return the bound of late requests, where it is the only one of the `TERMS`."""
    weights = problem.weights
    if any((weights[name] > 0) != (name == "late") for name in TERMS):
        return None
    requests = LateRequests(problem.instance, problem.data)
    if requests.tasks.size > MOST_REQUESTS:
        return None
    late = requests.generate(POOLED * time_limit_s, evaluations)
    return Bound(
        weights["late"] * late.weight + problem.rest_s(),
        "columns",
        f"sets of requests that a node can answer in time, {late.rounds} rounds",
        {"price": late.price},
    )


def _lagrangian(
    problem: _Problem, upper_s: float | None, time_limit_s: float, evaluations: float
) -> Bound | None:
    """Return the bound of all nodes together, then of one taken apart at the same prices."""
    end = time.perf_counter() + time_limit_s
    relaxation, rest_s = problem.relaxed(None), problem.rest_s()
    if relaxation is None:
        return None
    target_s = None if upper_s is None else upper_s - rest_s
    places = anchored(problem.instance, problem.data)
    apart = None if places is None else problem.relaxed(places)
    share = 1.0 if apart is None else POOLED
    found = ascend(
        relaxation, target_s, time_limit_s=share * time_limit_s, evaluations=share * evaluations
    )
    if apart is not None and places is not None:
        more = ascend(
            apart,
            target_s,
            time_limit_s=end - time.perf_counter(),
            evaluations=(1 - share) * evaluations,
            start=Rows(**{name: places.spread(p) for name, p in found.multipliers.items()}),
            step=AGAIN,
        )
        if more.seconds > found.seconds:
            found = replace(more, name=ANCHORED)
    return replace(found, seconds=found.seconds + rest_s)
