"""Lagrangian bound: GPUs, memory and cliques of each node class become prices per tick.

The nodes of a class are taken together, so their number is what a tick of a stage offers, of a
clique too (`solvers.bounds.cliques`). For any prices that are not negative, the cheapest chains of
all tasks (`solvers.bounds.chains`) minus what is offered at these prices is a lower bound; a
subgradient method raises it (Held, Wolfe and Crowder 1974; the step is Polyak's).
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
from lemix_opt.interrupt import stop_if_interrupted
from solvers.bounds.anchor import Places
from solvers.bounds.bound import Bound
from solvers.bounds.chains import Chains, Rows, Space, relaxed
from solvers.bounds.cliques import cliques
from solvers.bounds.quiet import quiet_before
from solvers.exact.data import TickData

TERMS = ("inference_response", "training_response", "late")
NO_DUE = 2**62
PATIENCE, SHRINK, SHORTEST_STEP = 20, 0.7, 1e-4
"""Evaluations without progress until the step shrinks, by how much, and when it is given up."""
NEAR = 0.05
"""Part of the bound that the next steps are aimed above it, where no schedule is nearer."""
INERTIA = 0.7
"""Weight of the former direction in the next one."""
ROUNDING = 1e-9
"""Relative allowance for sums of floats."""
LARGEST = 2 * 10**7
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
    quiet : ndarray of int, shape (T,)
        Quiet ticks before every task's release, which the time axis leaves out.
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
    quiet: IntArray

    @property
    def offered(self) -> Rows:
        """Return what there is per tick."""
        nodes = self.nodes[:, None, None]
        return Rows(nodes, self.room[:, :, None], nodes)

    def rows(self, ticks: int) -> Rows:
        """Return zeros for every resource and tick."""
        shape = (*self.room.shape, ticks)
        cliques = self.chains.runs.shape[0]
        return Rows(np.zeros(shape), np.zeros(shape), np.zeros((cliques, *shape)))

    def value_s(self, gpu: FloatArray, memory: FloatArray, clique: FloatArray) -> float:
        """Return the bound that prices give, in seconds, rounded to the safe side.

        Parameters
        ----------
        gpu, memory : ndarray, shape (C, S, horizon)
            Prices per tick, at least 0: of a GPU, and of a MiB.
        clique : ndarray, shape (K, C, S, horizon)
            The same of a member of a clique.
        """
        return self.evaluate(_Scratch(self), Rows(gpu, memory, clique))

    def evaluate(self, scratch: _Scratch, prices: Rows) -> float:
        """Return `value_s` and leave in the scratch what the tasks use."""
        end = self.horizon + 1
        for price, total, use in zip(prices, scratch.prices, scratch.use, strict=True):
            np.cumsum(price, axis=-1, out=total[..., 1:end])
            total[..., end:] = total[..., self.horizon, None]
            use[...] = 0
        arguments = (scratch.space, scratch.prices, scratch.use, self.loop, self.mode, self.horizon)
        cost = float(called(relaxed, self.chains, *arguments))
        offered = sum(
            float((there * price).sum()) for there, price in zip(self.offered, prices, strict=True)
        )
        slack = ROUNDING * (abs(cost) + offered)
        return (cost - offered - slack) * self.tick_s + self.constant_s


class _Scratch:
    def __init__(self, relaxation: Relaxation) -> None:
        ticks = relaxation.ticks
        classes, _, operations = relaxation.chains.length.shape
        self.prices, self.use = relaxation.rows(ticks), relaxation.rows(ticks)
        count = relaxation.loop.size
        self.space = Space(
            np.zeros((operations // 2, ticks)),
            np.zeros((operations // 2, ticks)),
            np.full((operations, ticks), np.inf),
            np.full((operations + 1, ticks), np.inf),
            np.full((count, classes, ticks), np.inf),
            np.full((count + 1, ticks), np.inf),
        )

    def excess(self, relaxation: Relaxation) -> Rows:
        """Return by how much use exceeds what there is, as subgradients."""
        return Rows(
            *(
                np.cumsum(use, axis=-1)[..., : relaxation.horizon] - there
                for use, there in zip(self.use, relaxation.offered, strict=True)
            )
        )


def relaxation_of(
    instance: Instance,
    data: TickData,
    weights: dict[str, float],
    head: IntArray,
    places: Places | None = None,
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
    places : Places, optional
        Which nodes are taken together, instead of all of a class.
    """
    work, tick, stages = instance.workload, instance.tick_s, instance.cluster.stages
    kinds = instance.cluster.node_class if places is None else places.group
    classes = int(kinds.max(initial=0)) + 1
    members = [np.flatnonzero(kinds == c) for c in range(classes)]
    present = [int(rows[0]) if rows.size else 0 for rows in members]
    nodes = np.array([rows.size for rows in members], dtype=np.float64)
    fits = np.all(data.held <= data.room[:, None, :], axis=2)
    allowed = np.stack([fits[rows].any(axis=0) for rows in members]).astype(np.uint8)
    if places is not None:
        allowed &= places.open
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
    quiet = quiet_before(instance, data)
    release, head = data.release - quiet, head - quiet
    due[dated] -= quiet[dated]
    chained = np.flatnonzero(training) if instance.release_mode != "open" else np.zeros(0, int)
    total = (length + pause).sum(axis=2).max(axis=0, initial=0)
    span = (busy + pause).sum(axis=2)
    load = busy.sum(axis=2).max(axis=0, initial=0).sum() / max(stages * kinds.size, 1)
    last = int(max(head.max(initial=0), release.max(initial=0)))
    horizon = last + int(1.5 * load) + 1
    # All of the closed loop may lie behind the horizon, where waiting brings nothing.
    share = total if instance.release_mode == "sync" else length[:, :, 0].max(axis=0, initial=0)
    ticks = horizon + int(share[chained].sum()) + 2 * int(total.max(initial=0)) + 2
    ticks += int(busy.max(initial=0))
    if ticks * (classes * (4 * stages + chained.size) + 4 * stages) > LARGEST:
        return None
    early = float(np.sum(weight * (data.release * tick - work.release_s)))
    largest = np.stack([data.room[rows].max(axis=0, initial=0) for rows in members])
    return Relaxation(
        Chains(
            training.astype(np.uint8),
            np.maximum(head, release),
            release,
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
            *cliques(data.held[present], largest, training),
        ),
        chained,
        RELEASE_MODES.index(instance.release_mode),
        nodes,
        np.stack([data.room[rows].sum(axis=0) for rows in members]).astype(np.float64),
        horizon,
        ticks,
        early,
        tick,
        quiet,
    )


def ascend(
    relaxation: Relaxation,
    upper_s: float | None,
    *,
    time_limit_s: float,
    evaluations: float = math.inf,
    start: Rows | None = None,
    step: float = 1.0,
) -> Bound:
    """Raise the bound until the step is too short or a limit is reached.

    Parameters
    ----------
    upper_s : float, optional
        Value of a known schedule in the terms of the relaxation, which steers the step.
    start : Rows, optional
        Prices to begin with; zeros when omitted.
    step : float, default 1
        Part of Polyak's step to begin with.
    """
    end = time.perf_counter() + time_limit_s
    scratch = _Scratch(relaxation)
    prices = relaxation.rows(relaxation.horizon) if start is None else start
    # A GPU and a node's whole memory shall weigh about the same in a step.
    node = np.maximum(relaxation.room / np.maximum(relaxation.nodes, 1)[:, None], 1)[:, :, None]
    scale = Rows(np.ones(1), node, np.ones(1))
    best_s, best = -math.inf, prices
    pull = relaxation.rows(relaxation.horizon)
    stalled, count = 0, 0
    while count < evaluations:
        stop_if_interrupted()
        value_s = relaxation.evaluate(scratch, prices)
        count += 1
        if count == 1 or value_s > best_s + 1e-6 * abs(best_s):
            best_s, best, stalled = value_s, prices, 0
        else:
            stalled += 1
        if step < SHORTEST_STEP or time.perf_counter() > end:
            break
        if stalled >= PATIENCE:
            step, stalled, prices = step * SHRINK, 0, best
            pull = relaxation.rows(relaxation.horizon)
            value_s = relaxation.evaluate(scratch, prices)
            count += 1
        excess = scratch.excess(relaxation)
        pull = Rows(*(d / w + INERTIA * p for d, w, p in zip(excess, scale, pull, strict=True)))
        moves = [
            np.where((price <= 0) & (d < 0), 0.0, d) for price, d in zip(prices, pull, strict=True)
        ]
        norm = sum(float(np.vdot(d, d)) for d in moves)
        if norm == 0:
            break
        # A poor schedule would make the steps too long.
        near_s = best_s + NEAR * abs(best_s)
        target_s = near_s if upper_s is None else min(upper_s, near_s)
        length = step * max(target_s - value_s, 1e-6 * abs(value_s)) / relaxation.tick_s / norm
        prices = Rows(
            *(
                np.maximum(price + length * move / w, 0)
                for price, move, w in zip(prices, moves, scale, strict=True)
            )
        )
    return Bound(
        best_s,
        "lagrangian",
        "cheapest chains of all tasks under prices of GPUs, memory and cliques, "
        f"{count} evaluations",
        best._asdict(),
    )
