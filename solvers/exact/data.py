"""An instance in whole ticks and units of memory, rounded to the safe side of its use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import UnsupportedError
from lemix_opt.grid import on_grid, ticks_down, ticks_up
from lemix_opt.instance import Instance

MIB = 2.0**20
HORIZON_LIMIT = 2**50
MEMORY_LIMIT = 2.0**58
"""Sums of memory times ticks that models may form."""
TOLERANCE_BYTES = 1e-3
"""Bytes by which a GPU may seem too full, as sums of floats do; the validator's."""
NOISE_BYTES = 1e-6
"""Distance in bytes to whole units that counts as floating-point noise."""
MOST_COUNTED = 12
"""Tasks up to which all sets of them are looked at."""
MOST_SIZES = 1000
"""Different sizes of which a common unit is looked for where they are no whole bytes."""
_BY_TASK = ("forward", "backward", "hop", "held")


@dataclass(frozen=True)
class TickData:
    """Integer data of one model; arrays are by node where costs are by class.

    Memory counts in a unit of the instance's own: MiB where all tasks hold whole MiB, else bytes,
    or what all sizes are multiples of, or the finest unit whose sums over tasks and ticks are whole
    numbers of 64 bits.

    Parameters
    ----------
    forward, backward, update, hop, held : ndarray of int
        Ticks by (N, T, S), (N, T, S), (N, S), (N, T, S−1); memory by (N, T, S).
    room : ndarray of int, shape (N, S)
        Memory beside what is resident.
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

    def take(self, tasks: IntArray) -> TickData:
        """Return the data of some tasks, in the order given."""
        columns = {name: getattr(self, name)[:, tasks] for name in _BY_TASK}
        return replace(self, **columns, release=self.release[tasks])


def tick_data(instance: Instance, *, bound: bool) -> TickData:
    """Round an instance to ticks and units of memory.

    Rounding leaves an instance its schedules: a task that fits on a node fits there in the data,
    so that tasks one after the other are a schedule of every model.

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
    held, room, steady = _memory(instance, horizon, bound=bound)
    return TickData(forward, backward, update, hop, held, room, release, horizon, whole and steady)


def _memory(instance: Instance, horizon: int, *, bound: bool) -> tuple[IntArray, IntArray, bool]:
    """Return held memory (N, T, S) and room (N, S) in whole units, and whether nothing was lost."""
    held = instance.costs.held_bytes[instance.cluster.node_class]
    room = instance.capacity_bytes - instance.resident_bytes
    fits = held <= room[:, None, :]
    unit = _unit(held, float(np.max(room, initial=0.0)), horizon)
    # Whole units fit into a room exactly when they fit into its whole units.
    space = np.floor((room + TOLERANCE_BYTES) / unit)
    units, nearest = held / unit, np.rint(held / unit)
    whole = np.abs(held - nearest * unit) <= NOISE_BYTES
    down = np.where(whole, nearest, np.floor(units))
    up = np.where(whole, nearest, np.ceil(units))
    if bound:
        rounded = np.where(fits, down, np.maximum(down, space[:, None] + 1))
    else:
        rounded = np.where(fits, np.minimum(up, space[:, None]), up)
    steady = bool(np.all(whole)) or _same_sets(down, up, space)
    return rounded.astype(np.int64), space.astype(np.int64), steady


def _same_sets(down: FloatArray, up: FloatArray, space: FloatArray) -> bool:
    """Whether the same sets of tasks have room, held memory rounded down or up."""
    if np.all(up.sum(axis=1) <= space):
        return True
    tasks = down.shape[1]
    if tasks > MOST_COUNTED:
        return False
    sets = np.arange(2**tasks)[:, None] >> np.arange(tasks) & 1
    fit = [np.einsum("kt,nts->kns", sets, held) <= space for held in (down, up)]
    return bool(np.array_equal(*fit))


def _unit(held: FloatArray, room: float, horizon: int) -> float:
    """Return the bytes that memory is counted in."""
    sizes = np.unique(held[held > 0])
    if not np.any(sizes % MIB):
        return MIB
    most = float(max(held.max(axis=0, initial=0.0).sum(), room, 1.0))
    if np.any(sizes % 1) and sizes.size <= MOST_SIZES:
        least = float(sizes[0])
        ratios = [Fraction(size / least).limit_denominator(MOST_SIZES) for size in sizes.tolist()]
        unit = least / math.lcm(*(r.denominator for r in ratios))
        near = np.abs(sizes - np.rint(sizes / unit) * unit) <= NOISE_BYTES
        if near.all() and most / unit * horizon <= MEMORY_LIMIT:
            return unit
    unit = 1.0
    while unit < MIB and most / unit * horizon > MEMORY_LIMIT:
        unit *= 2.0
    return unit
