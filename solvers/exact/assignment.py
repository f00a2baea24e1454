"""One stage, makespan alone: which node runs which task is all there is to decide.

On a node of one stage every task can run in one block, and blocks in order of release end first
(Jackson's rule for 1 | r_j | Cmax): the last end is the largest of r + Σ of the blocks released at
r or later. So P || Cmax, P | r_j | Cmax and R || Cmax are stated without any start.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ortools.sat.python import cp_model

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.exact.chains import chains
from solvers.exact.constraints.symmetry import open_in_order
from solvers.exact.data import TickData
from solvers.exact.parts import Parts
from solvers.exact.readout import Key
from solvers.exact.variables import Model

_LARGEST = 2_000_000
"""Entries of all rows together."""


def applies(instance: Instance, objective: Objective) -> bool:
    """Whether nodes are independent single machines and only the last end counts.

    A closed loop of two training tasks or more ties the nodes together. With too many releases the
    rows are too many.
    """
    rows = len(np.unique(instance.workload.release_s)) * instance.cluster.nodes
    if rows * instance.tasks > _LARGEST:
        return False
    free = instance.release_mode == "open" or int(instance.workload.is_training.sum()) < 2
    return instance.cluster.stages == 1 and free and objective.levels == (("makespan",),)


def build(
    instance: Instance,
    data: TickData,
    parts: Parts,
    *,
    horizon: int | None,
    check: Callable[[], None],
) -> Model:
    """State placements and the makespan; parameters as in `solvers.exact.model.build`."""
    cp = cp_model.CpModel()
    nodes = range(instance.cluster.nodes)
    on = [[cp.new_bool_var(f"on{i},{n}") for n in nodes] for i in range(instance.tasks)]
    end = data.horizon if horizon is None else min(horizon, data.horizon)
    model = Model(cp, chains(instance, data), on, end, check)
    model.makespan = cp.new_int_var(0, end, "makespan")
    size = blocks(instance, data)
    fits = np.all(data.held <= data.room[:, None, :], axis=2)
    for i, row in enumerate(on):
        cp.add_exactly_one(row)
        cp.add_bool_and(~row[n] for n in nodes if not fits[n, i])
    for n in nodes:
        for r in np.unique(data.release).tolist():
            check()
            # A node without such tasks breaks no row: some task ends behind r in any case.
            late = np.flatnonzero(data.release >= r).tolist()
            cp.add(model.makespan >= r + sum(int(size[n, i]) * on[i][n] for i in late))
    if parts.symmetry:
        open_in_order(instance, data, model)
    return model


def starts(instance: Instance, data: TickData, node: IntArray) -> dict[Key, int]:
    """Return the starts of all operations when every node runs its tasks in order of release."""
    found: dict[Key, int] = {}
    free = [0] * instance.cluster.nodes
    size = blocks(instance, data)
    for i in np.argsort(data.release, kind="stable").tolist():
        n = int(node[i])
        begin = max(free[n], int(data.release[i]))
        found[i, FORWARD, 0] = begin
        if instance.workload.is_training[i]:
            found[i, BACKWARD, 0] = begin + int(data.forward[n, i, 0])
        free[n] = begin + int(size[n, i])
    return found


def blocks(instance: Instance, data: TickData) -> IntArray:
    """Ticks of every task in one piece, shape (N, T)."""
    training = instance.workload.is_training
    back = data.backward[:, :, 0] + data.update[:, :1]
    return np.asarray(data.forward[:, :, 0] + np.where(training, back, 0))
