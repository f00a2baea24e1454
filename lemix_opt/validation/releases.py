"""Rules of release: own release times and the closed loop of training tasks."""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import Schedule
from lemix_opt.validation.operations import OperationTable
from lemix_opt.validation.tasks import Moments
from lemix_opt.validation.violation import TOLERANCE_S, Violation


def release_faults(table: OperationTable, moments: Moments) -> list[Violation]:
    """Check that no task starts before its release, and that the stored release is that one."""
    schedule, found = table.schedule, []
    due = _due_s(table.instance, schedule, moments)
    start = moments.start_s
    if schedule.generated is not None:
        requests = table.instance.workload.is_inference
        start = np.where(requests, schedule.generated.start_s, start)
    for task in np.flatnonzero(start < due - TOLERANCE_S).tolist():
        text = f"task {task} starts at {start[task]:.9g} s, before its release at {due[task]:.9g} s"
        found.append(_violation("release", text, schedule, task, start))
    stored = schedule.release_s
    for task in np.flatnonzero(np.abs(stored - due) > TOLERANCE_S).tolist():
        text = f"task {task} has the stored release {stored[task]:.9g} s, "
        text += f"expected {due[task]:.9g} s"
        found.append(_violation("stored_release", text, schedule, task, start))
    return found


def _due_s(instance: Instance, schedule: Schedule, moments: Moments) -> FloatArray:
    """Return when every task is released, in seconds, shape (T,)."""
    due = instance.workload.release_s.copy()
    if instance.release_mode == "open":
        return due
    let_go = moments.loop_end_s.copy()
    for task, time_s in schedule.gave_way:
        let_go[task] = min(let_go[task], time_s)
    loop = np.flatnonzero(instance.workload.is_training)
    due[loop[1:]] = np.maximum(due[loop[1:]], let_go[loop[:-1]])
    return due


def _violation(rule: str, text: str, schedule: Schedule, task: int, start: FloatArray) -> Violation:
    return Violation(rule, text, task, 0, int(schedule.node[task]), float(start[task]))
