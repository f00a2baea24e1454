"""Small instances, and objectives valued without the code under test."""

from __future__ import annotations

from dataclasses import replace

import brute_starts
import numpy as np

from lemix_opt import Cluster, Costs, Instance, Objective, Workload

PATIENT_S = 300.0
"""Seconds for proofs that take less than one: compilation and busy machines included."""

REGULAR = Objective(makespan=1, inference_response=2, training_response=1, late_penalty_s=3)


EVERY_TERM = Objective(
    makespan=1, inference_response=2, training_response=1, late_penalty_s=3, idle=0.5, node_time=2
)


IDLE_OBJECTIVES = {
    "idle": Objective(idle=1),
    "node_time": Objective(node_time=1),
    "mixed": Objective(idle=1, node_time=2, inference_response=1),
}


MODES = ("open", "async", "sync")


def regular_value(instance: Instance, ends: list[float]) -> float:
    """Value `REGULAR` from the ends of all tasks."""
    work = instance.workload
    total = max(ends, default=0.0)
    for i, end in enumerate(ends):
        response = end - work.release_s[i]
        total += work.weight[i] * response * (1 if work.kind[i] else 2)
        if not work.kind[i] and response > work.slo_s[i] + 1e-9:
            total += 3 * work.weight[i]
    return float(total)


def idle_value(instance: Instance, objective: Objective, placed: brute_starts.Placed) -> float:
    """Value one of `IDLE_OBJECTIVES` from the starts of a brute force."""
    lengths = [last - first for first, last in brute_starts.spans(instance, placed).values()]
    idle = instance.cluster.stages * sum(lengths) - brute_starts.busy(instance, placed)
    total = objective.idle * idle + objective.node_time * sum(lengths)
    for i in range(instance.tasks):
        if objective.inference_response and not instance.workload.kind[i]:
            last = (i, "F", instance.cluster.stages - 1)
            end = placed[1][last] + instance.costs.forward_s[0, i, -1]
            total += instance.workload.weight[i] * (end - instance.workload.release_s[i])
    return float(total)


def tiny(draw_seed: int, mode: str, fifo: bool, most: int = 7, longest: int = 3) -> Instance:
    """Draw up to three tasks in whole seconds, few enough operations for a brute force."""
    rng = np.random.default_rng(draw_seed)
    nodes, stages, tasks = int(rng.integers(1, 3)), int(rng.integers(1, 3)), int(rng.integers(1, 4))
    kind = rng.integers(0, 2, tasks)
    while (kind + 1).sum() * stages > most:
        tasks -= 1
        kind = kind[:tasks]
    shape = (1, tasks, stages)
    costs = Costs(
        rng.integers(1, longest + 1, shape),
        rng.integers(1, longest + 1, shape),
        rng.integers(0, 4, shape) * 2.0**20,
        0.0,
        rng.integers(0, 2, (1, stages)),
        rng.integers(0, 2, (1, tasks, stages - 1)),
    )
    workload = Workload(
        kind,
        np.sort(rng.integers(0, 4, tasks)),
        1,
        8,
        weight=rng.integers(1, 4, tasks),
        slo_s=rng.integers(2, 9, tasks),
    )
    cluster = Cluster(nodes, stages, 4 * 2.0**20)
    return Instance(cluster, workload, costs, release_mode=mode, fifo=fifo, tick_s=1.0)


def unlike(one: Instance, seed: int) -> Instance:
    """Give an instance two nodes that differ in every cost and in memory."""
    rng = np.random.default_rng(seed)
    tasks, stages = one.tasks, one.cluster.stages
    costs = Costs(
        rng.integers(1, 4, (2, tasks, stages)),
        rng.integers(0, 4, (2, tasks, stages)),
        rng.integers(0, 4, (2, tasks, stages)) * 2.0**20,
        rng.integers(0, 2, (2, stages)) * 2.0**20,
        rng.integers(0, 5, (2, stages)),
        rng.integers(0, 3, (2, tasks, stages - 1)),
    )
    memory = np.array([[5.0], [4.0]]) * 2.0**20 * np.ones((2, stages))
    return replace(one, cluster=Cluster(2, stages, memory, np.array([0, 1])), costs=costs)


def random_instance(seed: int, mode: str, fifo: bool) -> Instance:
    """Up to nine tasks on nodes of two classes, with memory that binds."""
    rng = np.random.default_rng(seed)
    nodes, stages, tasks = (
        int(rng.integers(1, 4)),
        int(rng.integers(1, 4)),
        int(rng.integers(1, 10)),
    )
    shape = (2, tasks, stages)
    costs = Costs(
        rng.integers(1, 9, shape),
        rng.integers(0, 9, shape),
        rng.integers(0, 5, shape) * 2.0**20,
        0.0,
        rng.integers(0, 3, (2, stages)),
        rng.integers(0, 3, (2, tasks, stages - 1)),
    )
    workload = Workload(
        rng.integers(0, 2, tasks),
        np.sort(rng.integers(0, 30, tasks)),
        1,
        8,
        weight=rng.integers(1, 4, tasks),
        slo_s=rng.integers(5, 40, tasks),
    )
    cluster = Cluster(nodes, stages, 5 * 2.0**20, rng.integers(0, 2, nodes))
    return Instance(cluster, workload, costs, release_mode=mode, fifo=fifo, tick_s=1.0)


def flow_shop(durations: list[list[int]]) -> Instance:
    forward = np.array(durations, dtype=float)[None]
    tasks, stages = forward.shape[1:]
    workload = Workload([0] * tasks, [0.0] * tasks, 1, 8)
    costs = Costs(forward, 0.0, 0.0, 0.0)
    return Instance(Cluster(1, stages, 1.0), workload, costs, fifo=True, tick_s=1.0)
