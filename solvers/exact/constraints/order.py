"""FIFO: all stages of a node start forwards in one order."""

from __future__ import annotations

from itertools import combinations

from lemix_opt.instance import Instance
from lemix_opt.schedule import FORWARD
from solvers.exact.variables import Model


def one_order(instance: Instance, model: Model) -> None:
    """Order every pair of tasks by one literal that all stages share."""
    cp, stages = model.cp, range(instance.cluster.stages)
    for i, j in combinations(range(instance.tasks), 2):
        model.check()
        ahead = cp.new_bool_var(f"ahead{i},{j}")
        for n in range(instance.cluster.nodes):
            together = [] if instance.cluster.nodes == 1 else [model.on[i][n], model.on[j][n]]
            for s in stages:
                a, b = (i, FORWARD, s), (j, FORWARD, s)
                cp.add(model.start[b] >= model.end[a]).only_enforce_if([*together, ahead])
                cp.add(model.start[a] >= model.end[b]).only_enforce_if([*together, ~ahead])
