"""Special cases of the makespan that have methods of their own, tried ahead of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.schedule import Schedule
from solvers.exact import assignment
from solvers.exact.board import Board
from solvers.exact.chains import Chain, chains
from solvers.exact.data import TickData
from solvers.exact.flow_shop import FlowShop
from solvers.exact.limits import Limits
from solvers.exact.order_tree import OrderTree
from solvers.exact.parts import Parts
from solvers.exact.placement import Placement, place
from solvers.exact.readout import schedule_from
from solvers.exact.start import fits, insert
from solvers.waiting import wait_for

_SHARE = 0.4
"""Part of the limits that such a method takes at most."""

_PIECE, _PER_UNIT = 10**7, 10**8
"""Nodes × jobs × machines between two looks at the limits, and in one unit of deterministic time
(about a second, as a unit of CP-SAT)."""
_MOST_JOBS = 1000
"""The tree keeps tables of jobs²."""


@dataclass(frozen=True)
class Found:
    """What the method of a special case found.

    Parameters
    ----------
    schedule : Schedule or None
        The best one.
    lower_bound : int or None
        Ticks that the makespan is at least; None where nothing is known.
    interrupted : bool
        Whether Ctrl-C ended it.
    """

    schedule: Schedule | None
    lower_bound: int | None
    interrupted: bool = False


def is_flow_shop(instance: Instance, objective: Objective) -> bool:
    """Whether only the last end counts, on one node under FIFO, without training; not too large."""
    alone = instance.cluster.nodes == 1 and not instance.workload.is_training.any()
    makespan = objective.levels == (("makespan",),)
    return instance.fifo and alone and makespan and 0 < instance.tasks <= _MOST_JOBS


def is_special(instance: Instance, objective: Objective, data: TickData) -> bool:
    """Whether there is a method for it, which needs the time grid."""
    found = is_flow_shop(instance, objective) or assignment.applies(instance, objective)
    return data.exact and found


def solve_special(
    instance: Instance, objective: Objective, data: TickData, parts: Parts, limits: Limits
) -> Found | None:
    """Solve an instance on the time grid by its own method; None where there is none."""
    chain = chains(instance, data)
    if not (is_special(instance, objective, data) and fits(data, chain)):
        return None
    if parts.tree and is_flow_shop(instance, objective):
        return _orders(instance, data, chain, limits)
    if parts.placement and assignment.applies(instance, objective) and instance.tasks:
        return _placement(instance, data, limits)
    return None


def _orders(instance: Instance, data: TickData, chain: Sequence[Chain], limits: Limits) -> Found:
    length, gap = (np.array([getattr(c, name)[0] for c in chain]) for name in ("length", "gap"))
    shop = FlowShop(length, gap, data.release)
    tree = OrderTree(shop, shop.neh())
    nodes = math.ceil(_PIECE / length.size)
    interrupted = False
    try:
        while not tree.proven and not limits.over(_SHARE):
            tree.explore(nodes)
            limits.spent += nodes * length.size / _PER_UNIT
    except KeyboardInterrupt:
        interrupted = True
    board = insert(limits, Board(instance, data, chain), tree.order)
    node = np.zeros(instance.tasks, dtype=np.int64)
    return Found(schedule_from(instance, node, board.starts), tree.lower_bound, interrupted)


def _placement(instance: Instance, data: TickData, limits: Limits) -> Found:
    room = np.all(data.held <= data.room[:, None, :], axis=2)
    deterministic = limits.part(_SHARE)
    nodes = None if deterministic is None else math.ceil(deterministic)
    answers: list[Placement] = []

    def work() -> None:
        size = assignment.blocks(instance, data)
        answers.append(place(size, data.release, room, limits.left_s(_SHARE), nodes))

    interrupted = wait_for(work, lambda: False, None)
    if interrupted:
        return Found(None, None, interrupted)
    (answer,), schedule = answers, None
    if answer.node is not None:
        starts = assignment.starts(instance, data, answer.node)
        schedule = schedule_from(instance, answer.node, starts)
    return Found(schedule, answer.lower_bound)
