"""An instance in whole ticks and MiB, rounded to the safe side of what it is used for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.errors import UnsupportedError
from lemix_opt.grid import on_grid, ticks_down, ticks_up
from lemix_opt.instance import Instance

MIB = 2.0**20
HORIZON_LIMIT = 2**50


@dataclass(frozen=True)
class TickData:
    """Integer data of one model; arrays are by node where costs are by class.

    Parameters
    ----------
    forward, backward, update, hop, held : ndarray of int
        Ticks by (N, T, S), (N, T, S), (N, S), (N, T, S−1); MiB by (N, T, S).
    room : ndarray of int, shape (N, S)
        MiB beside what is resident.
    release : ndarray of int, shape (T,)
        Own releases in ticks.
    horizon : int
        Tick by which some optimal schedule ends.
    exact : bool
        Whether the instance lies on the grid, so that the model is the problem itself.
    """

    forward: IntArray
    backward: IntArray
    update: IntArray
    hop: IntArray
    held: IntArray
    room: IntArray
    release: IntArray
    horizon: int
    exact: bool


def tick_data(instance: Instance, *, bound: bool) -> TickData:
    """Round an instance to ticks and MiB.

    Parameters
    ----------
    instance : Instance
        The problem.
    bound : bool
        False: durations, releases and demands up, capacity down, so that every solution is a
        schedule. True: the reverse, so that every schedule is a solution.

    Raises
    ------
    UnsupportedError
        If the rules lie outside the exact model or the horizon needs more than 2^50 ticks.
    """
    instance.require_plain_rules("is outside the exact model")
    ticks = ticks_down if bound else ticks_up
    tick, costs, kind = instance.tick_s, instance.costs, instance.cluster.node_class
    training = instance.workload.is_training
    forward = ticks(costs.forward_s, tick)[kind]
    backward = ticks(costs.backward_s, tick)[kind] * training[None, :, None]
    update = ticks(costs.closing_s, tick)[kind]
    hop = ticks(costs.hop_s, tick)[kind]
    held = costs.held_bytes[kind] / MIB
    room = (instance.capacity_bytes - instance.resident_bytes) / MIB
    release = ticks(instance.workload.release_s, tick)
    work = forward.sum(2) + backward.sum(2) + 2 * hop.sum(2)
    work = work + update.sum(1)[:, None] * training[None, :]
    horizon = int(np.max(release, initial=0)) + int(np.max(work, axis=0, initial=0).sum()) + 1
    if horizon > HORIZON_LIMIT:
        raise UnsupportedError(
            f"the horizon is {horizon} ticks",
            where="tick_s",
            expected="at most 2^50 ticks; use a longer tick",
        )
    whole = all(
        on_grid(a, tick)
        for a in (
            costs.forward_s,
            costs.backward_s[:, training],
            costs.closing_s,
            costs.hop_s,
            instance.workload.release_s,
        )
    )
    # Rounding changes nothing where all tasks together have room even if rounded to the safe side.
    ample = np.all(np.ceil(held).sum(axis=1) <= np.floor(room))
    steady = bool(ample or (np.all(held == np.floor(held)) and np.all(room == np.floor(room))))
    return TickData(
        forward,
        backward,
        update,
        hop,
        (np.floor(held) if bound else np.ceil(held)).astype(np.int64),
        (np.ceil(room) if bound else np.floor(room)).astype(np.int64),
        release,
        horizon,
        whole and steady,
    )
