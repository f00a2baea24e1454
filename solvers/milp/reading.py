"""From starts in ticks to a schedule in seconds."""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, DONE, UPDATE, Operations, Schedule
from solvers.milp.chains import Chains
from solvers.milp.rounding import to_seconds


def schedule_of(instance: Instance, chain: Chains, node: IntArray, start: IntArray) -> Schedule:
    """Return the schedule with these starts; durations are the exact ones.

    Parameters
    ----------
    node : ndarray of int, shape (T,)
    start : ndarray of int, shape (O,)
        Ticks.
    """
    costs = instance.costs
    where = node[chain.task]
    kind = instance.cluster.node_class[where]
    backward = chain.phase == BACKWARD
    own = (kind, chain.task, chain.stage)
    length = np.where(backward, costs.backward_s[own], costs.forward_s[own])
    begin = to_seconds(start, instance.tick_s)
    end = begin + length
    closing = costs.closing_s[kind, chain.stage]
    updates = np.flatnonzero(backward & (closing > 0))
    rows = np.concatenate([np.arange(len(start)), updates])
    phase = np.concatenate([chain.phase, np.full(len(updates), UPDATE)])
    operations = Operations(
        chain.task[rows],
        phase,
        chain.stage[rows],
        np.zeros(len(rows), dtype=np.int64),
        where[rows],
        np.concatenate([begin, end[updates]]),
        np.concatenate([end, end[updates] + closing[updates]]),
    )
    release = instance.workload.release_s.copy()
    for before, after in chain.loop:
        release[after] = max(release[after], end[chain.event[before]])
    return Schedule(node, operations, np.full(instance.tasks, DONE), release)
