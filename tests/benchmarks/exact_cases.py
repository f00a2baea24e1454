"""Instances on which parts and peers of the exact solver are measured, all from fixed seeds."""

from __future__ import annotations

import numpy as np

from lemix_opt import Cluster, Costs, Instance, Objective, Workload

MAKESPAN = Objective(makespan=1)
_MIB = 2.0**20


def mixed(tasks: int, nodes: int, stages: int, seed: int) -> tuple[Instance, Objective]:
    """Training beside serving in the closed loop, memory for three mean training tasks.

    Log-normal lengths of 20 to 1024 tokens, 40 % training, load 0.9, costs on a grid of 1 ms; the
    objective counts responses of requests four times, training once, and late requests.
    """
    rng = np.random.default_rng([tasks, nodes, stages, seed])
    trains = np.zeros(tasks, dtype=bool)
    trains[rng.choice(tasks, round(0.4 * tasks), replace=False)] = True
    rows = rng.choice([1, 2, 4], tasks)
    tokens = np.clip(np.rint(rng.lognormal(np.log(150), 1.0, tasks)), 20, 1024)
    forward = np.ceil(1000 * (0.004 + 0.00012 * rows * tokens) / stages)
    span = float((forward * (1 + 2 * trains)).sum()) / (nodes * 0.9)
    release = np.sort(rng.integers(0, int(span), tasks))
    held = np.ceil(np.where(trains, 1 / 32, 1 / 128) * rows * tokens)
    room = max(float(np.ceil(3 * held[trains].mean())), float(held.max()))
    slo_s = float(np.ceil(5 * stages * forward.mean())) / 1000

    def spread(column: np.ndarray) -> np.ndarray:
        return np.repeat(column[None, :, None], stages, axis=2)

    costs = Costs(
        spread(forward / 1000),
        spread(2 * forward * trains / 1000),
        spread(held * _MIB),
        np.zeros((1, stages)),
    )
    work = Workload(trains.astype(int), release / 1000, rows, tokens.astype(int), slo_s=slo_s)
    instance = Instance(Cluster(nodes, stages, room * _MIB), work, costs, release_mode="async")
    slo = Objective(inference_response=4, training_response=1, late_penalty_s=4 * slo_s)
    return instance, slo


def flow_shop(jobs: int, machines: int, seed: int) -> Instance:
    """Permutation flow shop with durations U[1, 99]."""
    rng = np.random.default_rng([jobs, machines, seed])
    return _requests(rng.integers(1, 100, (1, jobs, machines)), [0], fifo=True)


def unrelated(jobs: int, machines: int, seed: int) -> Instance:
    """R || Cmax with durations U[1, 100]."""
    rng = np.random.default_rng([jobs, machines, seed])
    return _requests(rng.integers(1, 101, (machines, jobs, 1)), list(range(machines)), fifo=False)


def _requests(units: np.ndarray, node_class: list[int], *, fifo: bool) -> Instance:
    classes, tasks, stages = units.shape
    costs = Costs(units, 0.0, 0.0, np.zeros((classes, stages)))
    work = Workload([0] * tasks, [0.0] * tasks, 1, 8)
    cluster = Cluster(len(node_class), stages, 1.0, np.array(node_class))
    return Instance(cluster, work, costs, release_mode="open", fifo=fifo, tick_s=1.0)
