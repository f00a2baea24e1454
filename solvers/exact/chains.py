"""What a task's own chain of operations says about when each of them can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.exact.data import TickData

Step = tuple[int, int]


@dataclass(frozen=True)
class Chain:
    """Operations of one task in order, on every node that has room for it.

    Parameters
    ----------
    steps : tuple of (phase, stage)
        Operations in order, P of them.
    nodes : tuple of int
        Nodes the task fits on; all of them where it fits on none.
    length, gap, tail : ndarray of int, shape (nodes, P)
        Ticks of the operation, of the hop before it, and of the update right behind it.
    """

    steps: tuple[Step, ...]
    nodes: tuple[int, ...]
    length: IntArray
    gap: IntArray
    tail: IntArray

    @property
    def before(self) -> IntArray:
        """Least ticks from the task's first start to the start of each operation, shape (P,)."""
        until = np.cumsum(self.length + self.gap, axis=1)
        return np.asarray((until - self.length).min(axis=0))

    @property
    def after(self) -> IntArray:
        """Least ticks from the start of each operation to the end of the task, shape (P,)."""
        return np.asarray(self._to_end().min(axis=0))

    @property
    def behind(self) -> IntArray:
        """Least ticks from the end of each operation, update included, to that of the task."""
        return np.asarray((self._to_end() - self.length - self.tail).min(axis=0))

    def _to_end(self) -> IntArray:
        until = np.cumsum(self.length + self.gap, axis=1)
        # An update on a late stage may end after the chain has gone on without it.
        ends = np.maximum.accumulate((until + self.tail)[:, ::-1], axis=1)[:, ::-1]
        return np.asarray(ends - (until - self.length))

    def until(self, step: Step) -> int:
        """Least ticks from the task's first start to the end of an operation."""
        at = self.steps.index(step)
        return int(np.cumsum(self.length + self.gap, axis=1)[:, at].min())

    def between(self, first: Step, last: Step) -> int:
        """Least ticks from the start of one operation to the end of a later one."""
        a, b = self.steps.index(first), self.steps.index(last)
        until = np.cumsum(self.length + self.gap, axis=1)
        return int((until[:, b] - until[:, a] + self.length[:, a]).min())


def chains(
    instance: Instance, data: TickData, kept: Mapping[int, int] | None = None
) -> tuple[Chain, ...]:
    """Return the chain of every task; those in `kept` run on the node given there only."""
    known = kept or {}
    return tuple(_chain(instance, data, i, known.get(i)) for i in range(instance.tasks))


def _chain(instance: Instance, data: TickData, i: int, kept: int | None) -> Chain:
    stages = range(instance.cluster.stages)
    steps = [(FORWARD, s) for s in stages]
    if instance.workload.is_training[i]:
        steps += [(BACKWARD, s) for s in reversed(stages)]
    fits = np.flatnonzero((data.held[:, i] <= data.room).all(axis=1))
    if kept is not None:
        fits = fits[fits == kept]
    nodes = fits if fits.size else np.arange(instance.cluster.nodes)
    shape = (len(nodes), len(steps))
    length, gap, tail = np.zeros((3, *shape), dtype=np.int64)
    for k, (phase, s) in enumerate(steps):
        length[:, k] = (data.forward if phase == FORWARD else data.backward)[nodes, i, s]
        if phase == BACKWARD:
            tail[:, k] = data.update[nodes, s]
        if k and steps[k - 1][1] != s:
            gap[:, k] = data.hop[nodes, i, min(s, steps[k - 1][1])]
    return Chain(tuple(steps), tuple(nodes.tolist()), length, gap, tail)
