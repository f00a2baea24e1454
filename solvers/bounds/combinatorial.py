"""Bounds that need no search: chains of single tasks, loads of GPUs, heads and tails."""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from solvers.exact.data import TickData


def chain_ticks(instance: Instance, data: TickData) -> IntArray:
    """Return the least ticks from a task's first start to its last end, shape (T,)."""
    training = instance.workload.is_training
    hops = data.hop.sum(2)
    ticks = data.forward.sum(2) + hops + training * (data.backward.sum(2) + hops)
    closing = data.update[:, 0][:, None] * training
    fits = np.all(data.held <= data.room[:, None, :], axis=2)
    alone: IntArray = np.where(fits, ticks + closing, 2**62).min(axis=0, initial=2**62)
    return alone


def chain_bound_s(
    instance: Instance, data: TickData, objective: Objective, head: IntArray
) -> float:
    """Return what the objective comes to if every task ran alone from its head on."""
    work, tick = instance.workload, instance.tick_s
    if instance.tasks == 0:
        return 0.0
    end = head + chain_ticks(instance, data)
    response = np.maximum(end * tick - work.release_s, 0.0)
    weights = objective.weights
    first = set(objective.levels[0])
    late = work.is_inference & (response > work.slo_s + tick)
    terms = {
        "inference_response": float((work.weight * response)[work.is_inference].sum()),
        "training_response": float((work.weight * response)[work.is_training].sum()),
        "late": float(work.weight[late].sum()),
        "makespan": makespan_ticks(instance, data, head) * tick,
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


def makespan_ticks(instance: Instance, data: TickData, head: IntArray) -> int:
    """Return a bound on the last end: the longest chain, and the load of every stage.

    The load of a stage over all nodes, for tasks that arrive there late and leave it early
    (Carlier's head and tail sets, with the nodes taken together): from the smallest head of a set
    on, N GPUs share its work, and the smallest tail follows.
    """
    if instance.tasks == 0:
        return 0
    stages, nodes = instance.cluster.stages, instance.cluster.nodes
    best = int((head + chain_ticks(instance, data)).max())
    training = instance.workload.is_training
    forward, backward = data.forward.min(axis=0), data.backward.min(axis=0)
    hop = data.hop.min(axis=0)
    reach = np.zeros_like(forward)
    reach[:, 1:] = np.cumsum(forward[:, :-1] + hop, axis=1)
    for s in range(stages):
        arrive = head + reach[:, s]
        down = forward[:, s:].sum(1) + hop[:, s:].sum(1)
        # After a task's last operation on this stage.
        after_inference = down - forward[:, s]
        update = int(data.update[:, s].min())
        # The update runs beside what follows on other stages.
        after_training = np.maximum(backward[:, :s].sum(1) + hop[:, :s].sum(1) - update, 0)
        tail = np.where(training, after_training, after_inference)
        load = forward[:, s] + training * (backward[:, s] + update)
        best = max(best, _sets(arrive, load, tail, nodes))
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
