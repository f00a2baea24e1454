"""Bounds that need no search: chains of single tasks, loads of GPUs, heads and tails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from solvers.exact.chains import Chain
from solvers.exact.data import TickData


def chain_bound_s(
    instance: Instance,
    data: TickData,
    objective: Objective,
    chain: Sequence[Chain],
    head: IntArray,
) -> float:
    """Return what the objective comes to if every task ran alone from its head on.

    Parameters
    ----------
    chain : sequence of Chain
        Of all tasks.
    head : ndarray of int, shape (T,)
        Earliest first starts in ticks.
    """
    work, tick = instance.workload, instance.tick_s
    if instance.tasks == 0:
        return 0.0
    end = head + np.array([c.after[0] for c in chain])
    response = np.maximum(end * tick - work.release_s, 0.0)
    weights = objective.weights
    first = set(objective.levels[0])
    late = work.is_inference & (response > work.slo_s + tick)
    terms = {
        "inference_response": float((work.weight * response)[work.is_inference].sum()),
        "training_response": float((work.weight * response)[work.is_training].sum()),
        "late": float(work.weight[late].sum()),
        "makespan": makespan_ticks(chain, head, instance.cluster.nodes) * tick,
        "node_time": float(least_work(instance, data).sum() * tick / instance.cluster.stages),
        "idle": 0.0,
    }
    return float(sum(weights[name] * terms[name] for name in first))


def least_work(instance: Instance, data: TickData) -> IntArray:
    """Return the least GPU ticks of every task over all stages, shape (T,)."""
    training = instance.workload.is_training
    back = data.backward.sum(2) + data.update.sum(1)[:, None]
    work: IntArray = (data.forward.sum(2) + training * back).min(axis=0, initial=2**62)
    return work


def makespan_ticks(chain: Sequence[Chain], head: IntArray, nodes: int) -> int:
    """Return a bound on the last end: the longest chain, and the load of every stage.

    The load of a stage over all nodes, for tasks that arrive there late and leave it early
    (Carlier's head and tail sets, with the nodes taken together): from the smallest head of a set
    on, N GPUs share its work, updates included, and the smallest tail follows.
    """
    best = 0
    # By stage: arrival, load and tail of every task.
    rows: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for c, first in zip(chain, head.tolist(), strict=True):
        before, behind = c.before, c.behind
        load = (c.length + c.tail).min(axis=0)
        best = max(best, first + int(c.after[0]))
        for s in {s for _, s in c.steps}:
            here = [k for k, step in enumerate(c.steps) if step[1] == s]
            rows[s].append((first + int(before[here[0]]), int(load[here].sum()), behind[here[-1]]))
    for table in rows.values():
        arrive, work, tail = np.array(table, dtype=np.int64).T
        best = max(best, _sets(arrive, work, tail, nodes))
    return best


def _sets(arrive: IntArray, load: IntArray, tail: IntArray, machines: int) -> int:
    """Return max over sets {arrive ≥ a, tail ≥ q} of a + ⌈load / machines⌉ + q."""
    best = 0
    tails = np.unique(tail)
    if tails.size > 64:
        tails = np.unique(np.quantile(tail, np.linspace(0, 1, 64), method="lower").astype(np.int64))
    order = np.argsort(-arrive, kind="stable")
    for q in tails.tolist():
        kept = order[tail[order] >= q]
        total = np.cumsum(load[kept])
        best = max(best, int((arrive[kept] - (-total // machines)).max()) + q)
    return best
