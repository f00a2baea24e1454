"""A first schedule, task by task, so that windows of time are narrow and an answer is at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from lemix_opt.checks import BoolArray, IntArray
from lemix_opt.instance import Instance
from lemix_opt.interrupt import stop_if_interrupted
from lemix_opt.result import Value
from lemix_opt.schedule import FORWARD
from solvers.milp.chains import Chains
from solvers.milp.rounding import Rounded

SWAPS_PER_TASK = 20
MOST_PLACED = 10_000
"""Tasks placed in all trials together."""


class _Gpu:
    """What earlier tasks have taken of a GPU."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.busy: list[tuple[int, int]] = []
        self.held: list[tuple[int, int, int]] = []
        self.last_forward = 0

    def free_from(self, ready: int, length: int) -> int:
        """First tick from `ready` on with `length` free ticks."""
        for begin, end in self.busy:
            if ready + length <= begin:
                break
            ready = max(ready, end)
        return ready

    def room_from(self, amount: int) -> int:
        """First tick from which on `amount` fits at all times."""
        changes = [(begin, held) for begin, _, held in self.held]
        changes += [(end, -held) for _, end, held in self.held]
        changes.sort()
        used, full = 0, 0
        for (now, change), (until, _) in pairwise(changes):
            used += change
            if used + amount > self.room and until > now:
                full = until
        return full


def search(
    instance: Instance,
    worth: Callable[[IntArray], Value],
    release: IntArray,
    seed: int,
    until: float,
) -> None:
    """Try orders of tasks: by release, requests first, then swaps of two in the best so far.

    Parameters
    ----------
    worth : callable
        Value of the list schedule in an order of tasks, shape (T,); smaller is better.
    release : ndarray of int, shape (T,)
        Own releases in ticks.
    until : float
        Reading of `time.perf_counter` at which to stop.
    """
    rng, tasks = np.random.default_rng(seed), instance.tasks
    training = instance.workload.is_training
    trained = np.flatnonzero(training)

    def value(order: IntArray) -> tuple[IntArray, Any]:
        # The closed loop goes by index.
        order = order.copy()
        order[training[order]] = trained
        return order, worth(order)

    best = value(np.argsort(release, kind="stable"))
    trials = [np.lexsort((release, training))]
    for _ in range(min(SWAPS_PER_TASK * tasks, MOST_PLACED // tasks) if tasks > 1 else 0):
        stop_if_interrupted()
        if time.perf_counter() > until:
            break
        swapped = best[0].copy()
        pair = rng.choice(tasks, 2, replace=False)
        swapped[pair] = swapped[pair[::-1]]
        trial = value(trials.pop() if trials else swapped)
        if trial[1] <= best[1]:
            best = trial


def list_schedule(
    instance: Instance, data: Rounded, chain: Chains, may: BoolArray, order: IntArray
) -> tuple[IntArray, IntArray]:
    """Insert the tasks in an order, each on the node where it ends first.

    Parameters
    ----------
    may : ndarray of bool, shape (T, N)
        Nodes a task may run on; at least one per task.
    order : ndarray of int, shape (T,)
        Training tasks by index.

    Returns
    -------
    node : ndarray of int, shape (T,)
    start : ndarray of int, shape (O,)
        Ticks.
    """
    gpus = [[_Gpu(int(room)) for room in rooms] for rooms in data.room]
    node = np.zeros(instance.tasks, dtype=np.int64)
    start = np.zeros(len(chain.task), dtype=np.int64)
    event = 0
    for i in order.tolist():
        first, end = chain.spans[i]
        ready = max(int(data.release[i]), event if chain.event[i] >= 0 else 0)
        best = None
        for n in np.flatnonzero(may[i]).tolist():
            found = _insert(instance, data, chain, gpus[n], i, n, ready)
            if best is None or found[0] < best[0]:
                best = (found[0], n, found[1])
        assert best is not None
        node[i], start[first:end] = best[1], best[2]
        _take(data, chain, gpus[best[1]], i, best[1], start)
        if chain.event[i] >= 0:
            event = int(start[chain.event[i]] + chain.length[best[1], chain.event[i]])
    return node, start


def _insert(
    instance: Instance, data: Rounded, chain: Chains, gpus: list[_Gpu], i: int, n: int, ready: int
) -> tuple[int, list[int]]:
    """Last end and starts of a task on a node, in the gaps that are left."""
    starts, last = [], 0
    for o in range(*chain.spans[i]):
        s, length = int(chain.stage[o]), int(chain.length[n, o])
        takes = length + int(chain.tail[n, o])
        ready += int(chain.gap[n, o])
        if chain.phase[o] == FORWARD:
            ready = max(ready, gpus[s].room_from(int(data.held[n, i, s])))
            if instance.fifo:
                ready = max(ready, gpus[s].last_forward)
        start = gpus[s].free_from(ready, takes) if takes else ready
        starts.append(start)
        ready = start + length
        last = max(last, start + takes)
    return last, starts


def _take(data: Rounded, chain: Chains, gpus: list[_Gpu], i: int, n: int, start: IntArray) -> None:
    for o in range(*chain.spans[i]):
        gpu, s = gpus[int(chain.stage[o])], int(chain.stage[o])
        begin, end = int(start[o]), int(start[o] + chain.length[n, o])
        if end + chain.tail[n, o] > begin:
            gpu.busy.append((begin, end + int(chain.tail[n, o])))
            gpu.busy.sort()
        if chain.phase[o] == FORWARD:
            last = chain.holds_until(i, s)
            free = int(start[last] + chain.length[n, last])
            gpu.held.append((begin, free, int(data.held[n, i, s])))
            gpu.last_forward = max(gpu.last_forward, end)
