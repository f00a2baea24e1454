"""Placements of single-stage tasks as a program for HiGHS, which often proves them before CP-SAT.

The same rows as in `solvers.exact.assignment`: a node's last end is at least r + Σ of the blocks
released at r or later. With blocks of whole ticks the makespan is whole, so that HiGHS's bound is
rounded up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_diag, csr_array, eye_array, hstack, vstack

from lemix_opt.checks import BoolArray, IntArray

_SLACK = 1e-6
"""HiGHS's tolerances: parts of a placement, and of a row, by which it may be wrong."""


@dataclass(frozen=True)
class Placement:
    """What HiGHS found.

    Parameters
    ----------
    node : ndarray of int, shape (T,), or None
        Node of every task.
    lower_bound : int or None
        Ticks that the makespan is at least; None where HiGHS has not come to a bound.
    """

    node: IntArray | None
    lower_bound: int | None


def place(
    size: IntArray, release: IntArray, fits: BoolArray, time_limit_s: float, node_limit: int | None
) -> Placement:
    """Minimise the makespan of independent single machines.

    Parameters
    ----------
    size : ndarray of int, shape (N, T)
        Ticks of every task in one piece.
    release : ndarray of int, shape (T,)
        Earliest starts in ticks.
    fits : ndarray of bool, shape (N, T)
        Where a task has room.
    time_limit_s : float
        Wall seconds.
    node_limit : int, optional
        Most nodes of the branch-and-bound tree.
    """
    nodes, tasks = size.shape
    begins = np.unique(release)
    late = release[None, :] >= begins[:, None]
    loads = block_diag([csr_array(late * size[n]) for n in range(nodes)])
    makespan = csr_array(np.full((nodes * len(begins), 1), -1.0))
    once = hstack([*[eye_array(tasks)] * nodes, csr_array((tasks, 1))])
    table = vstack([once, hstack([loads, makespan])]).tocsr()
    sides = np.concatenate([np.ones(tasks), np.tile(-begins.astype(np.float64), nodes)])
    below = np.concatenate([np.ones(tasks), np.full(nodes * len(begins), -np.inf)])
    cost = np.zeros(nodes * tasks + 1)
    cost[-1] = 1.0
    options: dict[str, Any] = {"mip_rel_gap": 0.0, "time_limit": max(time_limit_s, 0.0)}
    if node_limit is not None:
        options["node_limit"] = node_limit
    found = milp(
        cost,
        integrality=np.ones(cost.size),
        bounds=Bounds(0.0, np.append(fits.astype(np.float64).ravel(), np.inf)),
        constraints=LinearConstraint(table, below, sides),
        options=options,
    )
    node = None
    if found.x is not None:
        node = np.argmax(found.x[:-1].reshape(nodes, tasks), axis=0).astype(np.int64)
    raw = found.mip_dual_bound
    if raw is None or not math.isfinite(raw):
        return Placement(node, None)
    slack = 0.01 + _SLACK * float(size.max(axis=0).sum() + abs(raw))
    return Placement(node, math.ceil(raw - slack))
