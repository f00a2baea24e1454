"""Responses of requests by assigning them to places in the queues of one stage.

Where requests wait together for one stage, the one that is k-th from the end of a node's queue
delays k ends by its own time, so the least sum of ends is an assignment of requests to places
(Horn 1973; Bruno, Coffman and Sethi 1974). It is exact for one stage and requests that come
together. Others are cut into bursts by their arrival: in a burst nobody starts before the first
one, other bursts are forgotten, and the sum over bursts is a bound for any cuts; the best are found
by dynamic programming.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.instance import Instance
from solvers.exact.data import TickData

CUTS = 8
"""Most bursts."""
MOST = 400
"""Requests in a burst above which it is not looked at."""


@dataclass(frozen=True)
class Assigned:
    """A bound of the sum of weighted responses of requests.

    Parameters
    ----------
    seconds : float
        The bound, of requests only.
    stage : int
        Stage whose queues give it.
    cuts : tuple of int
        Ticks at which bursts begin, from the second on.
    """

    seconds: float
    stage: int
    cuts: tuple[int, ...]


@dataclass(frozen=True)
class _Queue:
    """One stage: ``cost`` [n,N] is its ticks, infinite off limits, ``behind`` [n,N] the rest."""

    arrive: IntArray
    cost: FloatArray
    behind: FloatArray
    weight: FloatArray
    release_s: FloatArray
    alone_s: FloatArray
    tick_s: float

    def burst_s(self, first: int, last: int) -> float:
        """Return the least weighted responses of requests that arrive in [first, last)."""
        inside = (self.arrive >= first) & (self.arrive < last)
        count = int(inside.sum())
        alone = float((self.weight * self.alone_s)[inside].sum())
        if not 0 < count <= MOST:
            return alone
        from scipy.optimize import linear_sum_assignment

        places = np.arange(1, count + 1)[None, None, :]
        cost = self.cost[inside][:, :, None] * places + self.behind[inside][:, :, None]
        cost = cost.reshape(count, -1)
        if not np.all(np.isfinite(cost).any(axis=1)):
            return alone
        rows, columns = linear_sum_assignment(cost)
        ends = count * int(self.arrive[inside].min()) + float(cost[rows, columns].sum())
        # What weighs more than the least counts as if it were alone.
        least = float(self.weight[inside].min())
        rest = ((self.weight - least) * self.alone_s)[inside].sum()
        together = least * (ends * self.tick_s - self.release_s[inside].sum()) + rest
        return max(alone, float(together))


def assigned(
    instance: Instance, data: TickData, head: IntArray, time_limit_s: float = math.inf
) -> Assigned:
    """Return the best bound over stages and cuts.

    Parameters
    ----------
    data : TickData
        Rounded so that every schedule is a solution (``bound=True``).
    head : ndarray of int, shape (T,)
        Earliest first starts in ticks.
    time_limit_s : float, optional
        Wall seconds, after which the stages seen so far count.
    """
    end = time.perf_counter() + time_limit_s
    best = Assigned(0.0, 0, ())
    if not np.any(instance.workload.is_inference):
        return best
    for stage in range(instance.cluster.stages):
        queue = _queue(instance, data, head, stage)
        cuts = np.unique(np.quantile(queue.arrive, np.linspace(0, 1, CUTS + 1), method="lower"))
        edges = [*cuts.tolist(), int(queue.arrive.max()) + 1]
        value, begins = _cut(queue, edges, end)
        if value > best.seconds:
            best = Assigned(value, stage, begins)
        if time.perf_counter() > end:
            break
    return best


def assigned_at(
    instance: Instance, data: TickData, head: IntArray, stage: int, cuts: tuple[int, ...]
) -> float:
    """Return the bound of one stage and given cuts, in seconds."""
    queue = _queue(instance, data, head, stage)
    edges = (int(queue.arrive.min()), *cuts, int(queue.arrive.max()) + 1)
    return math.fsum(queue.burst_s(a, b) for a, b in pairwise(edges))


def _queue(instance: Instance, data: TickData, head: IntArray, stage: int) -> _Queue:
    work = instance.workload
    requests = np.flatnonzero(work.is_inference)
    length, hop = data.forward[:, requests], data.hop[:, requests]
    fits = np.all(data.held[:, requests] <= data.room[:, None, :], axis=2).T
    before = (length[:, :, :stage].sum(axis=2) + hop[:, :, :stage].sum(axis=2)).T
    behind = (length[:, :, stage + 1 :].sum(axis=2) + hop[:, :, stage:].sum(axis=2)).T
    own = length[:, :, stage].T
    alone = head[requests] + (before + own + behind).min(axis=1)
    release_s = work.release_s[requests]
    return _Queue(
        head[requests] + before.min(axis=1),
        np.where(fits, own, np.inf),
        behind.astype(np.float64),
        work.weight[requests],
        release_s,
        np.maximum(alone * instance.tick_s - release_s, 0.0),
        instance.tick_s,
    )


def _cut(queue: _Queue, edges: list[int], end: float) -> tuple[float, tuple[int, ...]]:
    """Return the most that bursts between edges give, and where the later ones begin."""
    reached: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for b in range(1, len(edges)):
        options: list[tuple[float, tuple[int, ...]]] = []
        for a in range(b):
            if options and time.perf_counter() > end:
                break
            value, begins = reached[a]
            more = (*begins, edges[a]) if a else ()
            options.append((value + queue.burst_s(edges[a], edges[b]), more))
        reached.append(max(options, key=lambda option: option[0]))
    return reached[-1]
