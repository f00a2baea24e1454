"""The best set of requests that one node can answer in time, as a program for HiGHS.

On every stage a request that is in time runs between its arrival there and what its later stages
leave of its due time. The requests that have to run within an interval cannot need more time than
it has; for one GPU that may interrupt its work these conditions suffice (Horn 1974), so they are
necessary for a node. Those that a set breaks are added until it breaks none.
"""

from __future__ import annotations

import time

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.interrupt import stop_if_interrupted
from solvers.waiting import answer_of


class Pricing:
    """Sets of requests for one node.

    Parameters
    ----------
    arrive, due, length : ndarray of int, shape (n, S)
        Earliest start, latest end and ticks of every request on every stage.
    fits : ndarray of bool, shape (n,)
        Whether a node has the memory.
    """

    def __init__(self, arrive: IntArray, due: IntArray, length: IntArray, fits: BoolArray) -> None:
        self.arrive, self.due, self.length = arrive, due, length
        self.alone: BoolArray = fits & np.all(arrive + length <= due, axis=1)
        self.rows: list[IntArray] = []
        self.space: list[int] = []

    def best(self, profit: FloatArray, time_limit_s: float) -> tuple[float, BoolArray]:
        """Return a bound of the most profit of a set, and a set.

        Parameters
        ----------
        profit : ndarray, shape (n,)
            Per request; those without any are left out.
        time_limit_s : float
            Wall seconds, after which the bound is weaker and the set may be no column.
        """
        end = time.perf_counter() + time_limit_s
        worth = np.where(self.alone & (profit > 0), profit, 0.0)
        most, chosen = self._solve(worth, time_limit_s)
        while time.perf_counter() < end:
            stop_if_interrupted()
            broken = self._broken(chosen)
            if not broken:
                break
            for row, space in broken:
                self.rows.append(row)
                self.space.append(space)
            bound, chosen = self._solve(worth, end - time.perf_counter())
            most = min(most, bound)
        return most, chosen

    def _solve(self, worth: FloatArray, time_limit_s: float) -> tuple[float, BoolArray]:
        from scipy.optimize import LinearConstraint, milp

        most, chosen = float(worth.sum()), worth > 0
        if not self.rows or not chosen.any() or time_limit_s <= 0:
            return most, chosen
        found = answer_of(
            lambda: milp(
                -worth,
                integrality=np.ones(worth.size),
                bounds=(0, chosen.astype(float)),
                constraints=LinearConstraint(np.stack(self.rows), ub=self.space),
                options={"time_limit": min(time_limit_s, 1e6), "presolve": False},
            )
        )
        if found.mip_dual_bound is not None:
            most = min(most, -float(found.mip_dual_bound))
        if found.x is not None:
            chosen = found.x > 0.5
        return most, chosen

    def _broken(self, chosen: BoolArray) -> list[tuple[IntArray, int]]:
        """Return the condition that a set breaks most on every stage."""
        found = []
        for s in range(self.arrive.shape[1]):
            arrive, due, length = self.arrive[:, s], self.due[:, s], self.length[:, s]
            most, interval = 0, (0, 0)
            for a in np.unique(arrive[chosen]).tolist():
                inside = chosen & (arrive >= a)
                order = np.argsort(due[inside], kind="stable")
                ends = due[inside][order]
                over = np.cumsum(length[inside][order]) + a - ends
                k = int(over.argmax())
                if over[k] > most:
                    most, interval = int(over[k]), (a, int(ends[k]))
            if most > 0:
                a, b = interval
                found.append((np.where((arrive >= a) & (due <= b), length, 0), b - a))
        return found
