"""Checks of what a schedule says beside its operations: lost memory, and places given up.

Like the rest of the validator, this shares no code with the engine or a solver.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite

import numpy as np

from lemix_opt.instance import Instance
from lemix_opt.schedule import DROPPED, SYNC, Schedule
from lemix_opt.validation.violation import TOLERANCE_S, Violation


def memory_event_faults(instance: Instance, schedule: Schedule) -> Iterator[Violation]:
    """Check that out-of-memory events and dropped tasks belong to each other, one to one.

    An event is on the task's node, not before its release, and no operation of the task starts
    after it.
    """
    if not schedule.out_of_memory and not (schedule.end_state == DROPPED).any():
        return
    nodes, stages = instance.cluster.nodes, instance.cluster.stages
    starts = _last_starts(schedule)
    seen: set[int] = set()
    for row, (task, stage, node, time_s) in enumerate(schedule.out_of_memory):
        text = ""
        if not 0 <= task < instance.tasks:
            text = f"is of task {task}, expected one of {instance.tasks} tasks"
        elif task in seen:
            text = f"is a second one of task {task}, expected one per task"
        elif schedule.end_state[task] != DROPPED:
            text = f"is of task {task}, which is not dropped"
        elif not (0 <= node < nodes and node == schedule.node[task]):
            text = f"of task {task} is on node {node}, expected {schedule.node[task]}"
        elif not 0 <= stage < stages:
            text = f"of task {task} is on stage {stage}, expected one of {stages} stages"
        elif not isfinite(time_s):
            text = f"of task {task} is at {time_s} s, expected a finite time"
        elif time_s < schedule.release_s[task] - TOLERANCE_S:
            release = f"its release at {schedule.release_s[task]:.9g} s"
            text = f"of task {task} is at {time_s:.9g} s, before {release}"
        elif time_s < starts.get(task, -inf) - TOLERANCE_S:
            text = f"of task {task} is at {time_s:.9g} s, but it starts an operation at"
            text += f" {starts[task]:.9g} s"
        if text:
            text = f"out-of-memory event {row} {text}"
            at = time_s if isfinite(time_s) else 0.0
            yield Violation("out_of_memory", text, task, stage, node, at)
        seen.add(task)
    for task in (schedule.end_state == DROPPED).nonzero()[0].tolist():
        if task not in seen:
            text = f"task {task} is dropped without an out-of-memory event"
            yield Violation("out_of_memory", text, task, node=int(schedule.node[task]))


def _last_starts(schedule: Schedule) -> dict[int, float]:
    """Last start of every dropped task's own operations in seconds."""
    rows, last = schedule.operations, np.full(schedule.tasks, -np.inf)
    mine = np.flatnonzero((schedule.end_state == DROPPED)[rows.task] & (rows.phase != SYNC))
    np.maximum.at(last, rows.task[mine], rows.start_s[mine])
    return {task: float(last[task]) for task in np.flatnonzero(np.isfinite(last)).tolist()}


def place_faults(instance: Instance, schedule: Schedule) -> list[Violation]:
    """Check when deferred training tasks gave up their place in the closed loop.

    That is at or after the task's own release, at or before its start, at most once, and only
    where another training task waits behind it.
    """
    if not schedule.gave_way:
        return []
    loop = instance.workload.is_training.nonzero()[0].tolist()
    waited_for = set(loop[:-1]) if instance.release_mode != "open" else set()
    starts = schedule.start_s()
    seen: set[int] = set()
    found = []
    for task, time_s in schedule.gave_way:
        text = ""
        if task not in waited_for:
            text = "has no place in the closed loop that another task waits for"
        elif task in seen:
            text = "gives way a second time"
        elif time_s < schedule.release_s[task] - TOLERANCE_S:
            text = f"gives way at {time_s:.9g} s, before its release at"
            text += f" {schedule.release_s[task]:.9g} s"
        elif time_s > starts[task] + TOLERANCE_S:
            text = f"gives way at {time_s:.9g} s, after its start at {starts[task]:.9g} s"
        if text:
            found.append(Violation("gave_way", f"task {task} {text}", task, 0, time_s=time_s))
        seen.add(task)
    return found
