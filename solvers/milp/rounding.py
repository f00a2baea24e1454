"""An instance in whole ticks and bytes, by exact fractions; shared with no other solver.

A float stands for its shortest decimal, so that 0.3 s are 300 ticks of 0.001 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import UnsupportedError
from lemix_opt.instance import Instance
from lemix_opt.validation.violation import TOLERANCE_BYTES
from solvers.milp.memory import Row, memory_rows

HORIZON_LIMIT = 2**50
LATE_S = Fraction(1, 10**9)
"""Seconds by which a response may exceed its SLO and still not count as late."""
_NOISE_S = Fraction(1, 10**10)
_MILLIONTHS = 10**6


def fraction(number: float) -> Fraction:
    """Return the shortest decimal that is read as this float."""
    return Fraction(repr(float(number)))


def _noise(tick: Fraction) -> Fraction:
    return min(_NOISE_S, tick / 1000)


def whole_ticks(seconds: Fraction, tick: Fraction, *, up: bool) -> int:
    """Round a time to ticks; one within the noise of a whole number counts as that number."""
    nearest = round(seconds / tick)
    if abs(seconds - nearest * tick) <= _noise(tick):
        return nearest
    return math.ceil(seconds / tick) if up else math.floor(seconds / tick)


def ticks(seconds: npt.ArrayLike, tick_s: float, *, up: bool) -> IntArray:
    """Round times to ticks.

    Raises
    ------
    UnsupportedError
        If a time alone is longer than the longest horizon.
    """
    times, tick = np.asarray(seconds, dtype=np.float64), fraction(tick_s)
    found = [whole_ticks(fraction(t), tick, up=up) for t in times.reshape(-1).tolist()]
    _check_horizon(max(found, default=0))
    return np.array(found, dtype=np.int64).reshape(times.shape)


def on_grid(seconds: npt.ArrayLike, tick_s: float) -> bool:
    """Whether every time is a whole number of ticks, but for noise."""
    tick = fraction(tick_s)
    times = map(fraction, np.asarray(seconds, dtype=np.float64).reshape(-1).tolist())
    return all(abs(t - round(t / tick) * tick) <= _noise(tick) for t in times)


def to_seconds(count: IntArray, tick_s: float) -> FloatArray:
    """Seconds of a number of ticks, rounded once."""
    tick = fraction(tick_s)
    return np.array([float(n * tick) for n in count.reshape(-1).tolist()]).reshape(count.shape)


def due_ticks(instance: Instance) -> IntArray:
    """Return the last tick at which a task is not late, shape (T,); 0 where it has no SLO.

    Ends are whole ticks in all programs, also where times are rounded down.
    """
    work, tick = instance.workload, fraction(instance.tick_s)
    found = np.zeros(instance.tasks, dtype=np.int64)
    for i in np.flatnonzero(work.is_inference & np.isfinite(work.slo_s)).tolist():
        due = fraction(work.release_s[i]) + fraction(work.slo_s[i]) + LATE_S
        found[i] = min(whole_ticks(due, tick, up=False), 2 * HORIZON_LIMIT)
    return found


@dataclass(frozen=True)
class Rounded:
    """Integer data of one program; arrays are by node where costs are by class.

    Parameters
    ----------
    forward, backward, update, hop : ndarray of int
        Ticks by (N, T, S), (N, T, S), (N, S), (N, T, S−1).
    held, room : ndarray of int
        What a task holds and what a GPU has beside what is resident, by (N, T, S) and (N, S), in
        bytes or, where those are not whole, in millionths.
    memory : tuple of tuple of tuple of Row
        The same in small numbers, as rows by node and stage.
    release : ndarray of int, shape (T,)
        Own releases in ticks.
    horizon : int
        Tick by which some optimal schedule ends.
    exact : bool
        Whether nothing was rounded, so that the program is the problem itself.
    """

    forward: IntArray
    backward: IntArray
    update: IntArray
    hop: IntArray
    held: IntArray
    room: IntArray
    memory: tuple[tuple[tuple[Row, ...], ...], ...]
    release: IntArray
    horizon: int
    exact: bool


def rounded(instance: Instance, *, bound: bool) -> Rounded:
    """Round an instance to ticks; memory stays as it is wherever it can.

    Parameters
    ----------
    instance : Instance
        The problem.
    bound : bool
        False: times up, so that every solution is a schedule. True: times down, so that every
        schedule is a solution. Memory likewise where it must be rounded.

    Raises
    ------
    UnsupportedError
        If the rules lie outside the exact model or the horizon needs more than 2^50 ticks.
    """
    instance.require_plain_rules("is outside the exact model")
    tick_s, costs, kind = instance.tick_s, instance.costs, instance.cluster.node_class
    training = instance.workload.is_training
    forward = ticks(costs.forward_s, tick_s, up=not bound)[kind]
    backward = ticks(costs.backward_s * training[:, None], tick_s, up=not bound)[kind]
    update = ticks(costs.closing_s, tick_s, up=not bound)[kind]
    hop = ticks(costs.hop_s, tick_s, up=not bound)[kind]
    release = ticks(instance.workload.release_s, tick_s, up=not bound)
    work = forward.sum(2) + backward.sum(2) + 2 * hop.sum(2)
    work = work + update.sum(1)[:, None] * training
    horizon = int(release.max(initial=0)) + sum(work.max(axis=0, initial=0).tolist()) + 1
    _check_horizon(horizon)
    whole = all(
        on_grid(times, tick_s)
        for times in (
            costs.forward_s,
            costs.backward_s[:, training],
            costs.closing_s,
            costs.hop_s,
            instance.workload.release_s,
        )
    )
    held, room, kept = _bytes(instance, bound=bound)
    memory = []
    for n in range(instance.cluster.nodes):
        at_node = []
        for s in range(instance.cluster.stages):
            rows, same = memory_rows(held[n, :, s].tolist(), int(room[n, s]), bound=bound)
            kept &= same
            at_node.append(rows)
        memory.append(tuple(at_node))
    return Rounded(
        forward,
        backward,
        update,
        hop,
        held,
        room,
        tuple(memory),
        release,
        horizon,
        whole and kept,
    )


def _check_horizon(horizon: int) -> None:
    if horizon > HORIZON_LIMIT:
        raise UnsupportedError(
            f"the horizon is {horizon} ticks",
            where="tick_s",
            expected="at most 2^50 ticks; use a longer tick",
        )


def _bytes(instance: Instance, *, bound: bool) -> tuple[IntArray, IntArray, bool]:
    """Return what is held and what there is room for in whole units, and whether that is exact.

    A thousandth of a byte too much still fits, as `validate` has it. So millionths tell what fits.
    """
    cluster, kind = instance.cluster, instance.cluster.node_class
    share, spare = fraction(instance.memory_fraction), fraction(TOLERANCE_BYTES)
    each = {x: fraction(x) for x in np.unique(instance.costs.held_bytes).tolist()}
    room = [
        share * fraction(has) - fraction(takes)
        for has, takes in zip(
            cluster.memory_bytes.reshape(-1).tolist(),
            instance.resident_bytes.reshape(-1).tolist(),
            strict=True,
        )
    ]
    most = max([*each.values(), *map(abs, room), Fraction(1)]) * (instance.tasks + 1)
    units = Fraction(1 if all(x.denominator == 1 for x in each.values()) else _MILLIONTHS)
    kept = most * units < 2**62
    while most * units >= 2**62:
        # No memory has so much; sums stay within 64 bits all the same.
        units /= 1000
    down, up = math.floor, math.ceil
    put = round if kept else (down if bound else up)
    held = np.vectorize(lambda x: put(each[x] * units), otypes=[np.int64])
    limit = down if kept or not bound else up
    room_units = np.array([limit((r + spare) * units) for r in room], dtype=np.int64)
    table = instance.costs.held_bytes
    found = held(table) if table.size else np.zeros(table.shape, dtype=np.int64)
    return found[kind], room_units.reshape(cluster.nodes, cluster.stages), bool(kept)
