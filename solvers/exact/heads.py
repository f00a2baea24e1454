"""Earliest starts of training tasks through the closed loop and the memory it fills.

Training tasks start on stage 0 in the order of their index, each after the event of the one before.
Until the end of its last backward a task holds memory there, for at least the length of its chain.
So the tasks that still hold memory when task j starts, and j itself, must fit into the nodes. Let
every task start as early as this allows, the held ones being packed anew each time: by induction no
schedule starts any task earlier, since tasks that started earlier are gone earlier, and what is
left of a packing fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.exact.chains import Chain
from solvers.exact.data import TickData

_EFFORT = 2000
"""Placements tried before a set of tasks counts as fitting, which only weakens the heads."""

_REACH = 100
"""Training tasks over which distances are computed; longer ones are put together."""


@dataclass(frozen=True)
class Loop:
    """Training tasks in their closed loop.

    Parameters
    ----------
    tasks : tuple of int
        Training tasks in order; empty where releases are open.
    head : ndarray of int, shape (L,)
        Earliest first starts in ticks.
    lag : ndarray of int, shape (L, L)
        Entry (a, b), a < b: least ticks from the first start of the a-th to that of the b-th.
    """

    tasks: tuple[int, ...]
    head: IntArray
    lag: IntArray


def closed_loop(
    instance: Instance, data: TickData, chain: Sequence[Chain], *, memory: bool = True
) -> Loop:
    """Return heads and distances of the training tasks' first starts.

    Parameters
    ----------
    instance, data
        The problem and its ticks.
    chain : sequence of Chain
        Of all tasks.
    memory : bool, default True
        Whether to look at memory; otherwise only at the events of the closed loop.
    """
    trains = np.flatnonzero(instance.workload.is_training).tolist()
    if instance.release_mode == "open":
        trains = []
    event = (FORWARD if instance.release_mode == "async" else BACKWARD, 0)
    wait = [chain[i].until(event) for i in trains]
    hold = [chain[i].until((BACKWARD, 0)) for i in trains]
    demand = data.held[:, trains, 0] if memory else np.zeros((1, len(trains)), dtype=np.int64)
    room = data.room[:, 0] if memory else np.zeros(1, dtype=np.int64)
    release = data.release[trains]
    packing = _Packing(demand, room)
    head = _earliest(release, wait, hold, packing)
    lag = np.zeros((len(trains), len(trains)), dtype=np.int64)
    none = np.zeros(_REACH, dtype=np.int64)
    for a in reversed(range(len(trains))):
        end = min(a + _REACH, len(trains))
        lag[a, a:end] = _earliest(none, wait[a:end], hold[a:end], packing, offset=a)
        lag[a, end:] = lag[a, end - 1] + lag[end - 1, end:]
    return Loop(tuple(trains), head, lag)


def _earliest(
    release: IntArray, wait: Sequence[int], hold: Sequence[int], packing: _Packing, offset: int = 0
) -> IntArray:
    start = np.zeros(len(wait), dtype=np.int64)
    held: list[tuple[int, int]] = []
    now = 0
    for j in range(len(wait)):
        now = max(now, int(release[j]))
        held = [(end, i) for end, i in held if end > now]
        while held and not packing.fits((*(i for _, i in held), j + offset)):
            now = min(end for end, _ in held)
            held = [(end, i) for end, i in held if end > now]
        start[j] = now
        held.append((now + hold[j], j + offset))
        now += wait[j]
    return start


class _Packing:
    """Whether sets of tasks fit into the nodes at once; answers are kept."""

    def __init__(self, demand: IntArray, room: IntArray) -> None:
        self.demand, self.room = demand, room
        self.known: dict[tuple[int, ...], bool] = {}

    def fits(self, tasks: tuple[int, ...]) -> bool:
        found = self.known.get(tasks)
        if found is None:
            largest = sorted(tasks, key=lambda i: -int(self.demand[:, i].min()))
            self.effort = _EFFORT
            found = self.known[tasks] = self._place(
                [self.demand[:, i].tolist() for i in largest], self.room.tolist(), 0
            )
        return found

    def _place(self, need: list[list[int]], left: list[int], k: int) -> bool:
        if k == len(need):
            return True
        tried = set()
        for n, free in enumerate(left):
            # Nodes that look alike to all tasks that are left need to be tried once.
            sight = (free, *(row[n] for row in need[k:]))
            if need[k][n] > free or sight in tried:
                continue
            tried.add(sight)
            self.effort -= 1
            if self.effort <= 0:
                return True
            left[n] -= need[k][n]
            if self._place(need, left, k + 1):
                return True
            left[n] += need[k][n]
        return False
