"""Integer starts back to a schedule in seconds: the one place where solvers do so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.grid import to_seconds
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, DONE, FORWARD, UPDATE, Operations, Schedule

Key = tuple[int, int, int]


def schedule_from(instance: Instance, node: IntArray, starts: Mapping[Key, int]) -> Schedule:
    """Return the schedule of a placement and the starts of all forwards and backwards.

    Ends are exact starts plus the instance's own durations, which starts rounded to the safe side
    leave room for. Updates follow their backwards directly, and effective releases follow from the
    closed loop. Nothing is checked: `lemix_opt.validate` does.

    Parameters
    ----------
    instance : Instance
        The problem.
    node : array_like of int, shape (T,)
        Node of every task.
    starts : mapping of (task, phase, stage) to int
        Ticks; phases are `FORWARD` and `BACKWARD` of `lemix_opt.schedule`.
    """
    keys = np.array(list(starts), dtype=np.int64).reshape(-1, 3)
    ticks = np.array(list(starts.values()), dtype=np.int64)
    return schedule_at(instance, node, keys, to_seconds(ticks, instance.tick_s))


def schedule_at(instance: Instance, node: IntArray, keys: IntArray, start: FloatArray) -> Schedule:
    """Return the schedule of a placement and starts in seconds; see `schedule_from`.

    Parameters
    ----------
    keys : ndarray of int, shape (R, 3)
        Task, phase and stage of all forwards and backwards.
    start : ndarray, shape (R,)
        Seconds.
    """
    node = np.asarray(node, dtype=np.int64)
    task, phase, stage = keys.T
    costs, kind = instance.costs, instance.cluster.node_class[node[task]]
    back = phase == BACKWARD
    duration = np.where(
        back, costs.backward_s[kind, task, stage], costs.forward_s[kind, task, stage]
    )
    end = start + duration
    closing = costs.closing_s[kind, stage]
    follows = back & (closing > 0)
    task = np.concatenate([task, task[follows]])
    stage = np.concatenate([stage, stage[follows]])
    operations = Operations(
        task,
        np.concatenate([phase, np.full(int(follows.sum()), UPDATE)]),
        stage,
        np.zeros(len(task), dtype=np.int64),
        node[task],
        np.concatenate([start, end[follows]]),
        np.concatenate([end, (end + closing)[follows]]),
    )
    states = np.full(instance.tasks, DONE)
    return Schedule(node, operations, states, _releases(instance, keys, end))


def starts_of(schedule: Schedule, tick_s: float, task: int) -> list[int]:
    """Return the ticks at which a task's forwards and backwards start, along its chain."""
    o = schedule.operations
    rows = np.flatnonzero((o.task == task) & ((o.phase == FORWARD) | (o.phase == BACKWARD)))
    in_chain = np.where(o.phase[rows] == FORWARD, o.stage[rows], -o.stage[rows])
    rows = rows[np.lexsort((in_chain, o.phase[rows]))]
    found: list[int] = np.rint(o.start_s[rows] / tick_s).astype(np.int64).tolist()
    return found


def _releases(instance: Instance, keys: IntArray, end: FloatArray) -> FloatArray:
    """Effective releases: own ones, or the closed loop's events where these are later."""
    release = instance.workload.release_s.copy()
    if instance.release_mode == "open":
        return release
    phase = FORWARD if instance.release_mode == "async" else BACKWARD
    row = (keys[:, 1] == phase) & (keys[:, 2] == 0)
    ended = dict(zip(keys[row, 0].tolist(), end[row].tolist(), strict=True))
    event = 0.0
    for i in np.flatnonzero(instance.workload.is_training).tolist():
        release[i] = max(float(release[i]), event)
        event = ended[i]
    return release
