"""Releases: own ones and those of the closed loop."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.exact.data import TickData
from solvers.exact.heads import Loop
from solvers.exact.variables import Model


def releases(instance: Instance, data: TickData, model: Model) -> None:
    """Let a task start after its release, and training after the event of the one before."""
    for i in range(instance.tasks):
        if model.head[i, FORWARD, 0] < data.release[i]:
            model.cp.add(model.start[i, FORWARD, 0] >= int(data.release[i]))
    if instance.release_mode == "open":
        return
    phase = FORWARD if instance.release_mode == "async" else BACKWARD
    trains = np.flatnonzero(instance.workload.is_training).tolist()
    for i, latest in model.rest.latest.items():
        model.cp.add(model.end[i, phase, 0] <= latest)
    for i, j in pairwise(trains):
        model.cp.add(model.start[j, FORWARD, 0] >= model.end[i, phase, 0])


def distances(model: Model, loop: Loop) -> None:
    """Keep training starts as far apart as memory forces them, where no other distance implies it.

    Parameters
    ----------
    loop : Loop
        Distances of the training tasks' first starts.
    """
    for a, i in enumerate(loop.tasks):
        for b in range(a + 1, len(loop.tasks)):
            lag = int(loop.lag[a, b])
            by_way = loop.lag[a, a + 1 : b] + loop.lag[a + 1 : b, b]
            if b == a + 1 or lag > np.max(by_way):
                j = loop.tasks[b]
                model.cp.add(model.start[j, FORWARD, 0] >= model.start[i, FORWARD, 0] + lag)
