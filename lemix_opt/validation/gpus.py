"""Rules of a GPU: one operation at a time, within its memory, and one order on all stages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.schedule import FORWARD, OFFLOAD, PHASES, RELOAD, Operations
from lemix_opt.validation.byte_sums import PrefixSums
from lemix_opt.validation.operations import (
    ITERATION,
    Entries,
    Gpu,
    OperationTable,
    overlap_free,
)
from lemix_opt.validation.violation import TOLERANCE_BYTES, TOLERANCE_S, Violation


def exclusive_faults(gpu: Gpu) -> list[Violation]:
    """Check that a GPU runs one operation at a time."""
    if overlap_free(*gpu.spans()):
        return []
    entries = gpu.entries()
    latest = np.maximum.accumulate(entries.end_s)
    # The operation that lasts longest so far: the first of those that end last.
    leads = np.ones(latest.size, dtype=bool)
    leads[1:] = entries.end_s[1:] > latest[:-1]
    ahead = np.maximum.accumulate(np.where(leads, np.arange(latest.size), 0))
    wrong = entries.start_s[1:] < latest[:-1] - TOLERANCE_S
    wrong &= entries.end_s[1:] > entries.start_s[1:]
    found = []
    for row in (1 + np.flatnonzero(wrong)).tolist():
        before = int(ahead[row - 1])
        start, task = float(entries.start_s[row]), int(entries.task[row])
        text = (
            f"stage {gpu.stage} of node {gpu.node} runs {_named(entries, row)} "
            f"from {start:.9g} s while {_named(entries, before)} "
            f"lasts until {entries.end_s[before]:.9g} s"
        )
        found.append(Violation("exclusive", text, task, gpu.stage, gpu.node, start))
    return found


def _named(entries: Entries, row: int) -> str:
    task = int(entries.task[row])
    return "an iteration" if task == ITERATION else f"{PHASES[entries.phase[row]]} of task {task}"


class Stays(NamedTuple):
    """Spans of time in which bytes are held on a GPU, in columns of shape (n,)."""

    begin_s: FloatArray
    over_s: FloatArray
    held_bytes: FloatArray
    task: IntArray


def stays_on(gpu: Gpu) -> Stays:
    """Return what is held on a GPU: from when, until when, how many bytes, by whom."""
    costs, none = gpu.table.instance.costs, np.empty(0)
    begin, over, held, task = [none], [none], [none], [none.astype(np.int64)]
    for at, forward in enumerate(gpu.pieces):
        if forward.phase != FORWARD:
            continue
        layout, tasks = forward.layout, forward.tasks
        # Backwards follow their forwards in the list; a request is done after the forward.
        last = gpu.pieces[at + 1] if layout.trains else forward
        begin.append(forward.start_s.reshape(-1))
        over.append(last.end_s.reshape(-1))
        each = costs.held_bytes[layout.kind, tasks, gpu.stage] / layout.parts
        held.append(np.repeat(each, layout.parts))
        task.append(np.repeat(tasks, layout.parts))
    if gpu.iterations is not None and costs.iteration is not None:
        kind = int(gpu.table.instance.cluster.node_class[gpu.node])
        tokens = gpu.iterations.stored("kv_tokens")
        begin.append(gpu.iterations.start_s[:, 0])
        over.append(gpu.iterations.end_s[:, -1])
        held.append(tokens * costs.iteration.kv_bytes_per_token[kind, gpu.stage])
        task.append(np.full(tokens.size, ITERATION))
    begin_s, over_s, held_bytes = (np.concatenate(column) for column in (begin, over, held))
    stays = Stays(begin_s, over_s, held_bytes, np.concatenate(task))
    return _without_moves(stays, gpu.extras) if gpu.extras.rows else stays


def _without_moves(stays: Stays, extras: Operations) -> Stays:
    """Free what was moved out until it is moved back: two stays in place of one."""
    out = np.flatnonzero(extras.phase == OFFLOAD)
    back = np.flatnonzero(extras.phase == RELOAD)
    if not out.size:
        return stays
    # Both are in order of task, and every task that moves has one of each.
    order = np.argsort(stays.task, kind="stable")
    at = order[np.searchsorted(stays.task[order], extras.task[out])]
    over_s = stays.over_s.copy()
    over_s[at] = extras.end_s[out]
    return Stays(
        np.concatenate((stays.begin_s, extras.start_s[back])),
        np.concatenate((over_s, stays.over_s[at])),
        np.concatenate((stays.held_bytes, stays.held_bytes[at])),
        np.concatenate((stays.task, stays.task[at])),
    )


def memory_faults(gpu: Gpu) -> list[Violation]:
    """Check what a GPU holds whenever more begins; what ends just then is freed first."""
    instance, node, stage = gpu.table.instance, gpu.node, gpu.stage
    room = float(instance.limit_bytes[node, stage] - instance.resident_bytes[node, stage])
    stays = stays_on(gpu)
    if stays.held_bytes.sum() <= room:
        return []
    # Iterations alone come one after the other, so that none needs to be added to another.
    alone = not gpu.pieces and overlap_free(stays.begin_s, stays.over_s)
    if alone and stays.held_bytes.max(initial=0.0) <= room + TOLERANCE_BYTES:
        return []
    over_s = stays.over_s - TOLERANCE_S
    ends = np.argsort(over_s, kind="stable")
    given_back, over_s = PrefixSums(stays.held_bytes[ends]), over_s[ends]

    def used_at(begins: IntArray) -> FloatArray:
        """Return the bytes in use right after every beginning, in the given order."""
        gone = np.searchsorted(over_s, stays.begin_s[begins], side="right")
        taken = PrefixSums(stays.held_bytes[begins])
        return taken.minus(np.arange(1, begins.size + 1), given_back, gone)

    # Of equal starts the last has the largest sum, whatever their order.
    begins = np.argsort(stays.begin_s, kind="stable")
    if not (used_at(begins) > room + TOLERANCE_BYTES).any():
        return []
    begins = np.lexsort((stays.task, stays.held_bytes, stays.begin_s))
    begin_s, used, found = stays.begin_s[begins], used_at(begins), []
    for row in np.flatnonzero(used > room + TOLERANCE_BYTES).tolist():
        text = (
            f"stage {stage} of node {node} holds {used[row] / 2**20:.3f} MiB for tasks at "
            f"{begin_s[row]:.9g} s, expected at most {room / 2**20:.3f} MiB"
        )
        task = int(stays.task[begins[row]])
        found.append(Violation("memory", text, task, stage, node, float(begin_s[row])))
    return found


def order_faults(table: OperationTable, node: int) -> list[Violation]:
    """Check that all stages of a node start forwards in one order."""
    tasks, rows = [], []
    for layout, some in table.groups[node]:
        rows.append((table.first[some][:, None] + np.arange(layout.parts)).reshape(-1))
        tasks.append(np.repeat(some, layout.parts))
    if not tasks:
        return []
    task, row = np.concatenate(tasks), np.concatenate(rows)
    own, found = table.own, []
    # Rows of one stage rise with task and micro-batch, which decide among equal starts.
    order = np.lexsort((row, own.start_s[row]))
    task, row = task[order], row[order]
    parts = np.where(table.instance.workload.is_training[task], table.instance.micro_batches, 1)
    for stage in range(1, table.instance.cluster.stages):
        start: FloatArray = own.start_s[row + stage * parts]
        wrong: BoolArray = start[1:] < start[:-1] - TOLERANCE_S
        for at in np.flatnonzero(wrong).tolist():
            one, other = int(task[at]), int(task[at + 1])
            text = f"task {other} overtakes task {one} on stage {stage}"
            found.append(Violation("fifo", text, other, stage, node, float(start[at + 1])))
    return found
