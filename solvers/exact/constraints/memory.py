"""Memory that tasks hold on a stage, per GPU and over the whole cluster."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from lemix_opt.instance import Instance
from lemix_opt.schedule import FORWARD
from solvers.exact.data import TickData
from solvers.exact.variables import Model, holding


@dataclass(frozen=True)
class _Hold:
    """Time over which a task holds memory on a stage, from its forward's start to the last end."""

    task: int
    start: Any
    size: Any
    end: Any


def memory(instance: Instance, data: TickData, model: Model, *, energy: bool) -> None:
    """State the memory of every GPU; with `energy` also that of every stage of the cluster."""
    for s in range(instance.cluster.stages):
        holds = [
            _hold(instance, model, i, s)
            for i in range(instance.tasks)
            if np.any(data.held[list(model.chain[i].nodes), i, s])
        ]
        binding = [_per_gpu(data, model, holds, n, s) for n in range(instance.cluster.nodes)]
        if energy and instance.cluster.nodes > 1 and any(binding):
            _over_cluster(data, model, holds, s)


def _hold(instance: Instance, model: Model, i: int, s: int) -> _Hold:
    first, last = (FORWARD, s), (holding(instance, i), s)
    start, end = model.start[(i, *first)], model.end[(i, *last)]
    least = model.chain[i].between(first, last)
    size: Any = model.cp.new_int_var(least, max(least, model.horizon), "")
    if first == last and int(np.ptp(model.chain[i].length[:, model.chain[i].steps.index(first)])):
        # The end is a variable then; the interval ties the three together.
        return _Hold(i, start, size, end)
    return _Hold(i, start, least if first == last else size, end)


def _per_gpu(data: TickData, model: Model, holds: list[_Hold], n: int, s: int) -> bool:
    """State one GPU's memory and return whether it can bind at all."""
    here = [h for h in holds if n in model.chain[h.task].nodes and data.held[n, h.task, s]]
    demands = [int(data.held[n, h.task, s]) for h in here]
    room = int(data.room[n, s])
    taken = model.rest.held.get((n, s), ())
    if not here or sum(demands) + sum(mib for _, _, mib in taken) <= room:
        return False
    runs = [
        model.cp.new_optional_interval_var(h.start, h.size, h.end, model.on[h.task][n], "")
        for h in here
    ]
    runs += [model.cp.new_fixed_size_interval_var(a, b - a, "") for a, b, _ in taken]
    demands += [mib for _, _, mib in taken]
    unit = gcd(*demands)
    model.cp.add_cumulative(runs, [d // unit for d in demands], room // unit)
    return True


def _over_cluster(data: TickData, model: Model, holds: list[_Hold], s: int) -> None:
    """State the memory of all nodes together, and that a node has room for one large holder.

    Redundant, but free of placements: the relaxation sees the energy (memory times time) that
    tasks need. The second constraint is the dual feasible function 1[held > room / 2].
    """
    cp = model.cp
    demands, large, runs = [], [], []
    for h in holds:
        nodes = list(model.chain[h.task].nodes)
        run = cp.new_interval_var(h.start, h.size, h.end, "")
        demands.append(int(data.held[nodes, h.task, s].min()))
        runs.append(run)
        if np.all(2 * data.held[nodes, h.task, s] > data.room[nodes, s]):
            large.append(run)
    room = int(data.room[:, s].sum())
    if sum(demands) > room:
        unit = gcd(*demands)
        cp.add_cumulative(runs, [d // unit for d in demands], room // unit)
    if len(large) > len(data.room):
        cp.add_cumulative(large, [1] * len(large), len(data.room))
