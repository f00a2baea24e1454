"""What a window has to leave as it is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lemix_opt.checks import BoolArray, IntArray
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.exact.data import TickData
from solvers.exact.readout import Key
from solvers.exact.rest import Gpu, Rest, Span
from solvers.lns.scene import Scene
from solvers.lns.state import State, View


def rest_of(
    scene: Scene, data: TickData, objective: Objective, tasks: IntArray, kept: IntArray
) -> tuple[Rest, IntArray, int]:
    """Return the rest, the releases of the window's tasks, and its horizon.

    Work that ends before these releases or begins behind the horizon is left out.

    Parameters
    ----------
    tasks : ndarray of int
        Tasks of the window, in order.
    kept : ndarray of int
        Those of them that keep their node and their order.
    """
    instance, state, view = scene.instance, scene.state, scene.view
    stays = np.ones(instance.tasks, dtype=np.bool_)
    stays[tasks] = False
    release, latest = _loop(instance, data, view, tasks, stays)
    work = (data.forward + data.backward)[:, tasks].sum(axis=2)
    work = work + 2 * data.hop[:, tasks].sum(axis=2) + data.update.sum(axis=1)[:, None]
    horizon = int(view.last[tasks].max() + work.max(axis=0).sum())
    if objective.makespan or objective.idle or objective.node_time:
        # These look at the ends of all.
        horizon = max(horizon, int(view.last.max()))
    begin = int(release.min())
    rest = Rest(
        busy=_busy(data, state, view, stays, begin, horizon),
        held=_held(instance, data, state, view, stays, begin, horizon),
        latest=latest,
        span=_spans(state, view, stays),
        forwards=_forwards(state, view, stays, begin, horizon) if instance.fifo else {},
        node={int(np.searchsorted(tasks, i)): int(state.place[i]) for i in kept.tolist()},
        order=_order(state, view, tasks, kept),
    )
    return rest, release, horizon


def _loop(
    instance: Instance, data: TickData, view: View, tasks: IntArray, stays: BoolArray
) -> tuple[IntArray, dict[int, int]]:
    """Releases through training that stays, and events that training that stays waits for."""
    release = data.release[tasks].copy()
    latest: dict[int, int] = {}
    if instance.release_mode == "open":
        return release, latest
    training = np.flatnonzero(instance.workload.is_training)
    for local, i in enumerate(tasks.tolist()):
        at = int(np.searchsorted(training, i))
        if at == training.size or training[at] != i:
            continue
        if at and stays[training[at - 1]]:
            release[local] = max(release[local], view.event[training[at - 1]])
        if at + 1 < training.size and stays[training[at + 1]]:
            latest[local] = int(view.first[training[at + 1]])
    return release, latest


def _busy(
    data: TickData, state: State, view: View, stays: BoolArray, begin: int, horizon: int
) -> dict[Gpu, list[Span]]:
    """Spans in which GPUs are taken, those that touch put together."""
    stages = data.room.shape[1]
    rows = view.exists & stays[:, None]
    rows &= (view.stop > begin) & (view.begin < horizon) & (view.stop > view.begin)
    task, column = np.nonzero(rows)
    node, stage = state.place[task], column % stages
    start, stop = view.begin[task, column], view.stop[task, column]
    found: dict[Gpu, list[Span]] = {}
    order = np.argsort(start, kind="stable")
    for n, s, a, b in zip(*(c[order].tolist() for c in (node, stage, start, stop)), strict=True):
        spans = found.setdefault((n, s), [])
        if spans and spans[-1][1] == a:
            a = spans.pop()[0]
        spans.append((a, b))
    return found


def _held(
    instance: Instance,
    data: TickData,
    state: State,
    view: View,
    stays: BoolArray,
    begin: int,
    horizon: int,
) -> dict[Gpu, list[tuple[int, int, int]]]:
    """Memory that is taken, as one step function per GPU."""
    stages, training = data.room.shape[1], instance.workload.is_training
    end = np.where(training[:, None], view.end[:, stages:], view.end[:, :stages])
    start = view.begin[:, :stages]
    need = data.held[state.place, np.arange(instance.tasks)]
    rows = stays[:, None] & (need > 0) & (end > begin) & (start < horizon) & (end > start)
    changes: dict[Gpu, dict[int, int]] = {}
    for i, s in zip(*(c.tolist() for c in np.nonzero(rows)), strict=True):
        steps = changes.setdefault((int(state.place[i]), s), {})
        a, b, mib = int(start[i, s]), int(end[i, s]), int(need[i, s])
        steps[a] = steps.get(a, 0) + mib
        steps[b] = steps.get(b, 0) - mib
    found = {}
    for gpu, steps in changes.items():
        level, spans, moments = 0, [], sorted(steps)
        for a, b in pairwise(moments):
            level += steps[a]
            if level:
                spans.append((a, b, level))
        found[gpu] = spans
    return found


def _spans(state: State, view: View, stays: BoolArray) -> dict[int, Span]:
    found = {}
    for n in np.unique(state.place[stays]).tolist():
        here = stays & (state.place == n)
        found[n] = (int(view.first[here].min()), int(view.last[here].max()))
    return found


def _forwards(
    state: State, view: View, stays: BoolArray, begin: int, horizon: int
) -> dict[int, list[list[Span]]]:
    stages = view.begin.shape[1] // 2
    found: dict[int, list[list[Span]]] = {}
    for i in np.flatnonzero(stays).tolist():
        if view.end[i, stages - 1] > begin and view.begin[i, 0] < horizon:
            spans = zip(view.begin[i, :stages].tolist(), view.end[i, :stages].tolist(), strict=True)
            found.setdefault(int(state.place[i]), []).append(list(spans))
    return found


def _order(state: State, view: View, tasks: IntArray, kept: IntArray) -> list[tuple[Key, Key]]:
    """Neighbours on a GPU among the tasks that keep their order."""
    stages = view.begin.shape[1] // 2
    local = np.searchsorted(tasks, kept)
    row, column = np.nonzero(view.exists[kept] & (view.stop > view.begin)[kept])
    start = view.begin[kept[row], column]
    last: dict[Gpu, Key] = {}
    found = []
    for at in np.argsort(start, kind="stable").tolist():
        k = int(column[at])
        key = (int(local[row[at]]), BACKWARD if k >= stages else FORWARD, k % stages)
        gpu = (int(state.place[kept[row[at]]]), k % stages)
        if gpu in last:
            found.append((last[gpu], key))
        last[gpu] = key
    return found
