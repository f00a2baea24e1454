"""One node told from its like by the largest task it runs.

Nodes of one class and size can be renamed in any schedule, so that a chosen task runs on the first
of them. Taking that node apart from the others costs nothing, and keeps what runs beside the chosen
task from using the other nodes' share (symmetry breaking, as in bin packing where the largest item
is put into the first bin).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.instance import Instance
from solvers.exact.data import TickData


@dataclass(frozen=True)
class Places:
    """Where tasks may run.

    Parameters
    ----------
    group : ndarray of int, shape (N,)
        Nodes that are taken together, all of one class; numbers from 0 on.
    open : ndarray of bool, shape (G, T)
        Whether a task may run on a group.
    split : int
        Group that the last one was taken from.
    """

    group: IntArray
    open: BoolArray
    split: int

    def spread(self, prices: FloatArray) -> FloatArray:
        """Return prices by group for prices by class, axes (..., C, S, ticks)."""
        return np.concatenate((prices, prices[..., self.split, None, :, :]), axis=-3)


def anchored(instance: Instance, data: TickData) -> Places | None:
    """Return the classes with the largest training task's node apart, or None.

    The largest task holds the most memory times its ticks. None where no task trains, or where the
    nodes it fits on are of several classes or sizes, or one only.
    """
    kinds = instance.cluster.node_class
    fits = np.all(data.held <= data.room[:, None, :], axis=2)
    size = data.held.sum(axis=2) * (data.forward + data.backward).sum(axis=2)
    largest = np.where(instance.workload.is_training & fits.any(axis=0), size.max(axis=0), 0)
    if not np.any(largest):
        return None
    task = int(largest.argmax())
    homes = np.unique(kinds[fits[:, task]])
    members = np.flatnonzero(kinds == homes[0])
    alike = not np.any(data.room[members] != data.room[members[0]])
    if homes.size > 1 or members.size < 2 or not alike:
        return None
    groups = int(kinds.max()) + 2
    group = kinds.copy()
    group[members[0]] = groups - 1
    allowed = np.ones((groups, instance.tasks), dtype=np.bool_)
    allowed[:-1, task] = False
    return Places(group, allowed, int(homes[0]))
