"""Structural faults: operations that are missing, doubled, foreign or on another node."""

from __future__ import annotations

from collections import Counter

import numpy as np

from lemix_opt.checks import BoolArray, IntArray
from lemix_opt.end_reasons import end_reasons
from lemix_opt.instance import Instance
from lemix_opt.schedule import DONE, OFFLOAD, PHASES, RELOAD, SYNC, Operations, Schedule
from lemix_opt.validation.events import memory_event_faults
from lemix_opt.validation.operations import BLOCK_ROWS, Layout, OperationTable, layout_of, split
from lemix_opt.validation.violation import Violation


def structure(instance: Instance, schedule: Schedule) -> tuple[OperationTable, list[Violation]]:
    """Return the table of operations, and the structural faults.

    The table is complete when there are none.
    """
    own, extra = split(schedule.operations)
    nodes, trains = instance.cluster.nodes, instance.workload.is_training
    placed = (schedule.node >= 0) & (schedule.node < nodes)
    done = schedule.end_state == DONE
    classes = instance.cluster.classes
    layouts = [layout_of(instance, t, k) for t in (False, True) for k in range(classes)]
    which = (trains * classes).astype(np.int32)
    which += instance.cluster.node_class[np.where(placed, schedule.node, 0)].astype(np.int32)
    width = np.array([layout.phase.size for layout in layouts])[which]
    standing = done & placed
    first, whole = np.cumsum(width) - width, standing.copy()
    # Counting rows takes longer than all that follows, and is only needed where some are missing.
    if not standing.all() or own.rows != width.sum() or not _tasks_at(own, first, width):
        count = np.bincount(own.task, minlength=instance.tasks)
        first, whole = np.cumsum(count) - count, standing & (count == width)
    table = OperationTable(instance, schedule, own, extra, layouts, which, first)
    suspects = standing & ~whole
    for block in table.blocks(whole):
        rows = block.rows
        wrong = np.zeros(block.tasks.size, dtype=bool)
        for column, wanted in (
            (own.phase, block.layout.phase),
            (own.stage, block.layout.stage),
            (own.micro_batch, block.layout.part),
        ):
            wrong |= (column[rows] != wanted).any(axis=1)
        suspects[block.tasks] = wrong
    for task in _odd_extras(instance, extra):
        suspects[task] = standing[task]
    found = _elsewhere(schedule) + _undone(instance, schedule, placed)
    for task in np.flatnonzero(suspects).tolist():
        layout = layouts[int(which[task])]
        found += _of_task(instance, schedule, task, layout)
    found += memory_event_faults(instance, schedule)
    return table, sorted(found, key=lambda v: (v.task, v.stage, v.rule, v.message))


def _tasks_at(own: Operations, first: IntArray, width: IntArray) -> bool:
    """Whether every task's rows lie where they do if no task has too few or too many.

    Rows are in order of task, so that the first and last of each decide.
    """
    tasks = np.flatnonzero(width > 0)
    begin = first[tasks]
    return bool(
        np.all(own.task[begin] == tasks) and np.all(own.task[begin + width[tasks] - 1] == tasks)
    )


def _elsewhere(schedule: Schedule) -> list[Violation]:
    """Return the operations that are on another node than their task."""
    rows, found = schedule.operations, []
    for begin in range(0, rows.rows, BLOCK_ROWS):
        some = slice(begin, begin + BLOCK_ROWS)
        wrong = rows.node[some] != schedule.node[rows.task[some]]
        for r in (begin + np.flatnonzero(wrong)).tolist():
            task, stage, node = int(rows.task[r]), int(rows.stage[r]), int(rows.node[r])
            text = f"task {task} runs stage {stage} on node {node}, not on {schedule.node[task]}"
            found.append(Violation("one_node", text, task, stage, node, float(rows.start_s[r])))
    return found


def _undone(instance: Instance, schedule: Schedule, placed: BoolArray) -> list[Violation]:
    """Return tasks that are not done, with the reason, and done ones that no node has."""
    found = []
    for reason in end_reasons(instance, schedule):
        text, node = f"task {reason.task} is not done: it {reason.text}", schedule.node[reason.task]
        found.append(Violation("not_done", text, reason.task, node=int(node)))
    for task in np.flatnonzero(~placed & (schedule.end_state == DONE)).tolist():
        node = int(schedule.node[task])
        text = f"task {task} is on node {node} of {instance.cluster.nodes}"
        found.append(Violation("node_range", text, task, node=node))
    return found


def _odd_extras(instance: Instance, extra: Operations) -> list[int]:
    """Return the tasks whose synchronisations or moves are not as they may be.

    A task has one synchronisation at most, and moves in pairs: out and back on the same stage.
    """
    if not extra.rows:
        return []
    stages = instance.cluster.stages
    syncs = extra.phase == SYNC
    odd = (extra.stage >= stages) | (extra.micro_batch > 0)
    moves_at_all = bool(instance.waiting.offload_bytes_per_s)
    odd |= ~syncs & ~(instance.workload.is_training[extra.task] & moves_at_all)
    tasks = extra.task.astype(np.int64)
    sent = np.bincount(tasks[syncs], minlength=instance.tasks)
    odd |= syncs & (sent[tasks] > 1)
    key = tasks * stages + np.minimum(extra.stage, stages - 1)
    keys, at = np.unique(key, return_inverse=True)
    for phase in (OFFLOAD, RELOAD):
        count = np.bincount(at[extra.phase == phase], minlength=keys.size)
        odd |= ~syncs & (count[at] != 1)
    found: list[int] = np.unique(tasks[odd]).tolist()
    return found


def _of_task(instance: Instance, schedule: Schedule, task: int, layout: Layout) -> list[Violation]:
    """Compare one task's operations with those it should have."""
    rows, node, found = schedule.operations, int(schedule.node[task]), []
    # Numbers of another width would have the whole column converted.
    wanted_tasks = np.array([task, task + 1], dtype=rows.task.dtype)
    begin, end = np.searchsorted(rows.task, wanted_tasks).tolist()
    columns = (rows.phase, rows.stage, rows.micro_batch)
    counts = Counter(zip(*(c[begin:end].tolist() for c in columns), strict=True))
    wanted = set(zip(*(c.tolist() for c in layout[3:]), strict=True))
    for phase, stage, part in sorted(wanted):
        times = counts[phase, stage, part]
        if times != 1:
            text = f"task {task} has {times} {PHASES[phase]} operations on stage {stage}, not 1"
            found.append(Violation("operations", text + of_part(part), task, stage, node))
    syncs = [key for key in counts if key[0] == SYNC]
    may = wanted | set(syncs)
    if instance.waiting.offload_bytes_per_s and layout.trains:
        for stage in range(instance.cluster.stages):
            pair = {(OFFLOAD, stage, 0), (RELOAD, stage, 0)}
            may |= pair if all(counts.get(key) == 1 for key in pair) else set()
    if sum(counts[key] for key in syncs) > 1:
        stage = min(stage for _, stage, _ in syncs)
        text = f"task {task} sends weights {sum(counts[key] for key in syncs)} times, not once"
        found.append(Violation("operations", text, task, stage, node))
    may -= {(p, s, m) for p, s, m in syncs if s >= instance.cluster.stages or m}
    for phase, stage, part in sorted(set(counts) - may):
        text = f"task {task} has a {PHASES[phase]} on stage {stage} that does not belong to it"
        found.append(Violation("operations", text + of_part(part), task, stage, node))
    return found


def of_part(part: int) -> str:
    """Name a micro-batch, but the first."""
    return f" (micro-batch {part})" if part else ""
