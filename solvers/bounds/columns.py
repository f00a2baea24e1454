"""Late requests by column generation: a column is a set of requests that one node answers in time.

The master program chooses columns, as many per class as it has nodes, so that every request is in
one at most; its dual values price the requests. The best set at these prices comes from a program
of its own (`solvers.bounds.answered`). For any prices π that are not negative no more weight is
answered in time than

    Σ π_i + Σ_c nodes_c · max over sets A of class c of Σ_{i in A} (w_i − π_i),

Farley's bound (1990), whether or not the columns are complete. Training is left out.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.grid import ticks_up
from lemix_opt.instance import Instance
from lemix_opt.interrupt import stop_if_interrupted
from solvers.bounds.answered import Pricing
from solvers.exact.data import TickData

SAFE = 1e-6
"""Relative allowance for the tolerances of HiGHS."""
SMOOTHING = 0.7
"""Part of the best prices so far in the next ones (Wentges 1997), which move less to and fro."""
MOST_REQUESTS = 400
"""Requests with an SLO above which the bound is not computed."""


@dataclass(frozen=True)
class Late:
    """A bound of late requests.

    Parameters
    ----------
    weight : float
        Least weight of requests that are late.
    price : ndarray, shape (T,)
        Prices from which it can be computed again; zeros for tasks without an SLO.
    rounds : int
        Times that prices were changed.
    """

    weight: float
    price: FloatArray
    rounds: int


class LateRequests:
    """Requests with an SLO, and sets of them that one node can answer in time.

    Parameters
    ----------
    instance : Instance
        The problem.
    data : TickData
        Rounded so that every schedule is a solution (``bound=True``).
    """

    def __init__(self, instance: Instance, data: TickData) -> None:
        work, kinds = instance.workload, instance.cluster.node_class
        self.tasks: IntArray = np.flatnonzero(
            work.is_inference & np.isfinite(work.slo_s) & (work.weight > 0)
        )
        self.weight: FloatArray = work.weight[self.tasks]
        due = ticks_up((work.release_s + work.slo_s)[self.tasks], instance.tick_s)
        self.count = instance.tasks
        self.nodes: list[int] = []
        self.pricing: list[Pricing] = []
        for kind in np.unique(kinds).tolist():
            members = np.flatnonzero(kinds == kind)
            length = data.forward[members[0]][self.tasks]
            hop = data.hop[members[0]][self.tasks]
            still = np.zeros((self.tasks.size, 1), dtype=np.int64)
            before = np.cumsum(np.concatenate((still, length[:, :-1] + hop), axis=1), axis=1)
            after = before[:, -1:] + length[:, -1:] - before - length
            held = data.held[members][:, self.tasks]
            fits = np.all(held <= data.room[members][:, None, :], axis=2).any(axis=0)
            self.nodes.append(members.size)
            self.pricing.append(
                Pricing(
                    data.release[self.tasks][:, None] + before, due[:, None] - after, length, fits
                )
            )

    def bound(self, price: FloatArray) -> float:
        """Return the least late weight that prices of all tasks prove, shape (T,)."""
        profit = self.weight - price[self.tasks]
        best = [pricing.best(profit, math.inf)[0] for pricing in self.pricing]
        return self._rounded(self._unrounded(price[self.tasks], best))

    def _unrounded(self, price: FloatArray, most: list[float]) -> float:
        answered = float(price.sum())
        answered += sum(n * max(value, 0.0) for n, value in zip(self.nodes, most, strict=True))
        total = float(self.weight.sum())
        return total - answered - SAFE * (1 + total)

    def _rounded(self, late: float) -> float:
        # Sums of whole weights are whole.
        whole = np.all(self.weight == np.floor(self.weight))
        return max(math.ceil(late) if whole and math.isfinite(late) else late, 0.0)

    def generate(self, time_limit_s: float, rounds: float) -> Late:
        """Change the prices until no column is missing or a limit is reached."""
        end = time.perf_counter() + time_limit_s
        master = _Master(self.weight, self.nodes)
        for kind, pricing in enumerate(self.pricing):
            for i in np.flatnonzero(pricing.alone).tolist():
                master.add(kind, np.arange(self.tasks.size) == i)
        # At prices of their weights nobody gains by requests, and only hopeless ones are late.
        center = np.where(np.any([p.alone for p in self.pricing], axis=0), self.weight, 0.0)
        best = self._unrounded(center, [0.0] * len(self.nodes))
        count, smoothing = 0, SMOOTHING
        while count < rounds and time.perf_counter() < end:
            stop_if_interrupted()
            dual, node_price = master.prices()
            price = smoothing * center + (1 - smoothing) * dual
            most: list[float] = []
            missing = False
            for kind, pricing in enumerate(self.pricing):
                value, chosen = pricing.best(self.weight - price, end - time.perf_counter())
                most.append(value)
                if (self.weight - dual)[chosen].sum() > node_price[kind] + SAFE:
                    master.add(kind, chosen)
                    missing = True
            count += 1
            late = self._unrounded(price, most)
            if late > best:
                best, center = late, price
            if not missing and smoothing == 0:
                break
            # A set that is no column at the dual values themselves ends the search.
            smoothing = SMOOTHING if missing else 0.0
        full = np.zeros(self.count)
        full[self.tasks] = center
        return Late(self._rounded(best), full, count)


class _Master:
    """The program that chooses columns."""

    def __init__(self, weight: FloatArray, nodes: list[int]) -> None:
        self.weight, self.nodes = weight, nodes
        self.columns: list[tuple[int, BoolArray]] = []

    def add(self, kind: int, chosen: BoolArray) -> None:
        self.columns.append((kind, chosen))

    def prices(self) -> tuple[FloatArray, FloatArray]:
        """Return the dual values of requests and of nodes."""
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        size = self.weight.size
        if not self.columns:
            return np.zeros(size), np.zeros(len(self.nodes))
        rows, cols = [], []
        for j, (kind, chosen) in enumerate(self.columns):
            members = [*np.flatnonzero(chosen).tolist(), size + kind]
            rows += members
            cols += [j] * len(members)
        shape = (size + len(self.nodes), len(self.columns))
        matrix = csr_array((np.ones(len(rows)), (rows, cols)), shape=shape)
        worth = np.array([self.weight[chosen].sum() for _, chosen in self.columns])
        limit = np.concatenate((np.ones(size), self.nodes))
        found = linprog(-worth, A_ub=matrix, b_ub=limit, method="highs")
        dual = np.maximum(-found.ineqlin.marginals, 0.0)
        return dual[:size], dual[size:]
