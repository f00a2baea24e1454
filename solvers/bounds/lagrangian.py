"""Lagrangian bound: GPUs and memory of each node class become prices per tick.

The nodes of a class are taken together, so their number is what a tick of a stage offers. For any
prices that are not negative, the cheapest chains of all tasks (`solvers.bounds.chains`) minus what
is offered at these prices is a lower bound; a subgradient method raises it (Held, Wolfe and
Crowder 1974; the step is Polyak's).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.engine.jit import called
from lemix_opt.grid import ticks_up
from lemix_opt.instance import RELEASE_MODES, Instance
from solvers.bounds.bound import Bound
from solvers.bounds.chains import Chains, Space, relaxed
from solvers.exact.data import TickData

TERMS = ("inference_response", "training_response", "late")
NO_DUE = 2**62
PATIENCE, SHRINK, SHORTEST_STEP = 20, 0.7, 1e-4
"""Evaluations without progress until the step shrinks, by how much, and when it is given up."""
INERTIA = 0.7
"""Weight of the former direction in the next one."""
ROUNDING = 1e-9
"""Relative allowance for sums of floats."""
LARGEST = 4 * 10**8
"""Array entries above which the bound is not computed."""


@dataclass(frozen=True)
class Relaxation:
    """What prices are put on.

    Parameters
    ----------
    chains : Chains
        Tasks by node class, in ticks.
    loop : ndarray of int
        Training tasks in the order of the closed loop.
    mode : int
        Release mode.
    nodes : ndarray, shape (C,)
        Nodes per class.
    room : ndarray, shape (C, S)
        MiB of all nodes of a class.
    horizon, ticks : int
        First tick whose prices are zero, and length of the time axis.
    constant_s : float
        Seconds to add for releases off the grid.
    tick_s : float
        Seconds per tick.
    """

    chains: Chains
    loop: IntArray
    mode: int
    nodes: FloatArray
    room: FloatArray
    horizon: int
    ticks: int
    constant_s: float
    tick_s: float

    def value_s(self, gpu: FloatArray, memory: FloatArray) -> float:
        """Return the bound that prices give, in seconds, rounded to the safe side.

        Parameters
        ----------
        gpu, memory : ndarray, shape (C, S, horizon)
            Prices per tick, at least 0: of a GPU, and of a MiB.
        """
        return self.evaluate(_Scratch(self), gpu, memory)

    def evaluate(self, scratch: _Scratch, gpu: FloatArray, memory: FloatArray) -> float:
        """Return `value_s` and leave in the scratch what the tasks use."""
        np.cumsum(gpu, axis=2, out=scratch.gpu[:, :, 1 : self.horizon + 1])
        np.cumsum(memory, axis=2, out=scratch.memory[:, :, 1 : self.horizon + 1])
        for prices in (scratch.gpu, scratch.memory):
            prices[:, :, self.horizon + 1 :] = prices[:, :, self.horizon, None]
        arguments = (
            *(self.chains, scratch.space, scratch.gpu, scratch.memory),
            *(scratch.used, scratch.stored, self.loop, self.mode, self.horizon),
        )
        cost = float(called(relaxed, *arguments))
        offered = float((self.nodes[:, None, None] * gpu).sum())
        offered += float((self.room[:, :, None] * memory).sum())
        slack = ROUNDING * (abs(cost) + offered)
        return (cost - offered - slack) * self.tick_s + self.constant_s


class _Scratch:
    def __init__(self, relaxation: Relaxation) -> None:
        chains, ticks = relaxation.chains, relaxation.ticks
        classes, _, operations = chains.length.shape
        shape = (classes, operations // 2, ticks)
        self.gpu, self.memory = np.zeros(shape), np.zeros(shape)
        self.used, self.stored = np.zeros(shape), np.zeros(shape)
        count = relaxation.loop.size
        self.space = Space(
            np.full((operations, ticks), np.inf),
            np.full((operations + 1, ticks), np.inf),
            np.full((count, classes, ticks), np.inf),
            np.full((count + 1, ticks), np.inf),
        )

    def excess(self, relaxation: Relaxation) -> tuple[FloatArray, FloatArray]:
        """Return by how much use exceeds what there is, as subgradients."""
        used = np.cumsum(self.used, axis=2)[:, :, : relaxation.horizon]
        stored = np.cumsum(self.stored, axis=2)[:, :, : relaxation.horizon]
        return used - relaxation.nodes[:, None, None], stored - relaxation.room[:, :, None]


def relaxation_of(
    instance: Instance, data: TickData, weights: dict[str, float], head: IntArray
) -> Relaxation | None:
    """Return the relaxation, or None where it would be too large.

    Parameters
    ----------
    data : TickData
        Rounded so that every schedule is a solution (``bound=True``).
    weights : dict of str to float
        Of the terms in `TERMS`.
    head : ndarray of int, shape (T,)
        Earliest starts.
    """
    work, tick, stages = instance.workload, instance.tick_s, instance.cluster.stages
    kinds = instance.cluster.node_class
    classes = int(kinds.max(initial=0)) + 1
    members = [np.flatnonzero(kinds == c) for c in range(classes)]
    present = [int(rows[0]) if rows.size else 0 for rows in members]
    nodes = np.array([rows.size for rows in members], dtype=np.float64)
    fits = np.all(data.held <= data.room[:, None, :], axis=2)
    allowed = np.stack([fits[rows].any(axis=0) for rows in members]).astype(np.uint8)
    training = work.is_training
    forward, backward = data.forward[present], data.backward[present][:, :, ::-1]
    update = data.update[present]
    length = np.concatenate((forward, backward), axis=2)
    closing = np.where(training[:, None], update[:, None, ::-1], 0)
    busy = length + np.concatenate((np.zeros_like(forward), closing), axis=2)
    hop = data.hop[present]
    still = np.zeros((classes, instance.tasks, 1), dtype=np.int64)
    pause = np.concatenate((hop, still, hop[:, :, ::-1], still), axis=2)
    weight = np.where(training, weights["training_response"], weights["inference_response"])
    weight = weight * work.weight
    dated = work.is_inference & np.isfinite(work.slo_s)
    due = np.full(instance.tasks, NO_DUE, dtype=np.int64)
    due[dated] = ticks_up(work.release_s[dated] + work.slo_s[dated], tick)
    chained = np.flatnonzero(training) if instance.release_mode != "open" else np.zeros(0, int)
    total = (length + pause).sum(axis=2).max(axis=0, initial=0)
    span = (busy + pause).sum(axis=2)
    load = busy.sum(axis=2).max(axis=0, initial=0).sum() / max(stages * kinds.size, 1)
    last = int(max(head.max(initial=0), data.release.max(initial=0)))
    horizon = last + int(1.5 * load) + 1
    # All of the closed loop may lie behind the horizon, where waiting brings nothing.
    share = total if instance.release_mode == "sync" else length[:, :, 0].max(axis=0, initial=0)
    ticks = horizon + int(share[chained].sum()) + 2 * int(total.max(initial=0)) + 2
    ticks += int(busy.max(initial=0))
    if ticks * (classes * (4 * stages + chained.size) + 4 * stages) > LARGEST:
        return None
    early = float(np.sum(weight * (data.release * tick - work.release_s)))
    return Relaxation(
        Chains(
            training.astype(np.uint8),
            np.maximum(head, data.release),
            data.release,
            due,
            weight,
            np.where(dated, weights["late"] / tick * work.weight, 0.0),
            allowed,
            length,
            busy,
            pause,
            data.held[present].astype(np.float64),
            update[:, 0].copy(),
            span,
        ),
        chained,
        RELEASE_MODES.index(instance.release_mode),
        nodes,
        np.stack([data.room[rows].sum(axis=0) for rows in members]).astype(np.float64),
        horizon,
        ticks,
        early,
        tick,
    )


def ascend(
    relaxation: Relaxation,
    upper_s: float | None,
    *,
    time_limit_s: float,
    evaluations: float = math.inf,
) -> Bound:
    """Raise the bound until the step is too short or a limit is reached.

    Parameters
    ----------
    upper_s : float, optional
        Value of a known schedule in the terms of the relaxation, which steers the step.
    """
    end = time.perf_counter() + time_limit_s
    scratch = _Scratch(relaxation)
    shape = (*relaxation.room.shape, relaxation.horizon)
    prices = (np.zeros(shape), np.zeros(shape))
    # A GPU and a node's whole memory shall weigh about the same in a step.
    scale = np.maximum(relaxation.room / np.maximum(relaxation.nodes, 1)[:, None], 1)[:, :, None]
    best_s, best = -math.inf, prices
    pull = (np.zeros(shape), np.zeros(shape))
    step, stalled, count = 1.0, 0, 0
    while count < evaluations:
        value_s = relaxation.evaluate(scratch, *prices)
        count += 1
        if count == 1 or value_s > best_s + 1e-6 * abs(best_s):
            best_s, best, stalled = value_s, (prices[0].copy(), prices[1].copy()), 0
        else:
            stalled += 1
        if step < SHORTEST_STEP or time.perf_counter() > end:
            break
        if stalled >= PATIENCE:
            step, stalled, prices = step * SHRINK, 0, best
            pull = (np.zeros(shape), np.zeros(shape))
            value_s = relaxation.evaluate(scratch, *prices)
            count += 1
        gpu, memory = scratch.excess(relaxation)
        pull = (gpu + INERTIA * pull[0], memory / scale + INERTIA * pull[1])
        moves = [
            np.where((price <= 0) & (d < 0), 0.0, d) for price, d in zip(prices, pull, strict=True)
        ]
        norm = sum(float(np.vdot(d, d)) for d in moves)
        if norm == 0:
            break
        target_s = upper_s if upper_s is not None else best_s + 0.05 * abs(best_s)
        length = step * max(target_s - value_s, 1e-6 * abs(value_s)) / relaxation.tick_s / norm
        prices = (
            np.maximum(prices[0] + length * moves[0], 0),
            np.maximum(prices[1] + length * moves[1] / scale, 0),
        )
    return Bound(
        best_s,
        "lagrangian",
        f"cheapest chains of all tasks under prices of GPUs and memory, {count} evaluations",
        {"gpu": best[0], "memory": best[1]},
    )
