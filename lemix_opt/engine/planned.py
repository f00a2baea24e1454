"""The layout of a schedule that is executed again: chains of tasks and queues of GPUs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemix_opt.costs import Costs
from lemix_opt.engine.jit import called, index, inlined
from lemix_opt.engine.view import fixed
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, DONE, FORWARD, UPDATE, Schedule

NONE = -1
NOISE_S = 1e-9
"""Seconds within which a moment counts as the planned one."""
LAST, FREE, HELD, COUNTED = 1, 2, 4, 8
"""Marks of operations: the task's last backward on its stage, followed by the update; it takes no
time and, as planned, no turn on its GPU; its memory is held; and comes back without a turn."""
# Stages have 15 bits in the tables, and a chain has twice as many places.
PLACE_SHIFT = 16
PLACE_MASK = (1 << PLACE_SHIFT) - 1
RIGHT, OTHER_NODE, NO_PLACE, TWICE, NO_BEGINNING = range(5)
"""What `index_rows` finds."""


class Layout(NamedTuple):
    """A schedule's operations in a table with a row for every one that its tasks may have.

    A row of the table is an operation: those of a task follow each other by phase, stage and
    micro-batch, as in `Operations.sorted`; task i has those from ``first[i]`` on. `plan_row` is an
    operation's row in the schedule (−1: none). An item is one micro-batch of one task, and `chain`
    the number of operations at the beginning of its chain that the schedule has. `updates` says
    whether training tasks have rows for updates.
    """

    stages: int
    micro_batches: int
    updates: int
    training: npt.NDArray[np.uint8]
    node: npt.NDArray[np.int32]
    first: npt.NDArray[np.int64]
    plan_row: npt.NDArray[np.int32]
    chain: npt.NDArray[np.int32]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]


class Queues(NamedTuple):
    """Operations that take turns on a GPU, in order: ``number[begin[gpu] : end[gpu]]``.

    The number of an operation is made of its item and its place in the chain; see `number_of`.
    `marks` holds the marks of all operations by row.
    """

    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    marks: npt.NDArray[np.uint8]


@inlined
def number_of(item: int, place: int) -> int:
    """Return the number of an operation: they rise by task, micro-batch and place in the chain."""
    return (int(item) << PLACE_SHIFT) | int(place)


@inlined
def item_of(number: int) -> int:
    """Return the item of the operation of a number."""
    return index(number >> PLACE_SHIFT)


@inlined
def place_of(number: int) -> int:
    """Return the place in its item's chain of the operation of a number."""
    return index(number & PLACE_MASK)


@inlined
def owner(layout: Layout, item: int) -> int:
    """Return the task of an item."""
    # Most schedules are without micro-batches, and a division takes long.
    return index(item if layout.micro_batches == 1 else item // layout.micro_batches)


@inlined
def parts_of(layout: Layout, task: int) -> int:
    """Return the number of a task's micro-batches; an inference task is one item."""
    return layout.micro_batches if layout.training[task] else 1


@inlined
def row_at(layout: Layout, task: int, phase: int, stage: int, part: int) -> int:
    """Return the row of an operation."""
    parts = layout.micro_batches if layout.training[task] else 1
    row = layout.first[task] + (phase * layout.stages + stage) * parts
    # Updates come once for all micro-batches.
    return row + part if phase != UPDATE else layout.first[task] + 2 * layout.stages * parts + stage


@inlined
def phase_at(layout: Layout, place: int) -> int:
    """Return the phase of a place in a chain."""
    return FORWARD if place < layout.stages else BACKWARD


@inlined
def stage_at(layout: Layout, place: int) -> int:
    """Return the stage of a place in a chain."""
    return place if place < layout.stages else 2 * layout.stages - 1 - place


def layout_of(instance: Instance, costs: Costs, plan: Schedule) -> tuple[Layout, int, int]:
    """Return the layout, and what is wrong with the schedule where: a row or a task of it.

    Rows are looked at before tasks.
    """
    stages, parts, o = instance.cluster.stages, instance.micro_batches, plan.operations
    updates = bool(np.any(costs.closing_s > 0)) or bool(np.any(o.phase == UPDATE))
    trains = instance.workload.is_training
    counts = np.where(trains, 2 * stages * parts + stages * updates, stages)
    first = np.concatenate(([0], np.cumsum(counts)))
    layout = Layout(
        stages,
        parts,
        int(updates),
        trains.astype(np.uint8),
        plan.node.astype(np.int32),
        first,
        np.full(int(first[-1]), NONE, dtype=np.int32),
        np.zeros(instance.tasks * parts, dtype=np.int32),
        fixed(o.start_s, np.float64),
        fixed(o.end_s, np.float64),
    )
    columns = [fixed(column, column.dtype) for column in (o.task, o.phase, o.stage)]
    columns += [fixed(column, column.dtype) for column in (o.micro_batch, o.node)]
    done = (plan.end_state == DONE).astype(np.uint8)
    where = np.zeros(1, dtype=np.int64)
    counted = np.zeros(stages + parts, dtype=np.int64)
    flushes = int(instance.pipeline == "gpipe")
    found = called(index_rows, layout, *columns, done, flushes, counted, where)
    return layout, int(found), int(where[0])


def index_rows(
    layout: Layout,
    task: Any,
    phase: Any,
    stage: Any,
    micro_batch: Any,
    node: Any,
    done: Any,
    flushes: int,
    counted: Any,
    where: Any,
) -> int:
    """Fill `plan_row` and `chain`; return what is wrong, `where` tells the row or the task.

    Every item runs a beginning of its chain, done ones all of it; an update waits for all backwards
    on its stage, and under GPipe the first backwards for all last forwards.
    """
    stages, last = layout.stages, layout.stages - 1
    row, found, bad = 0, RIGHT, NONE
    for i in range(layout.training.size):
        begin, right, turned = row, True, 0
        parts = parts_of(layout, i)
        # Backwards by stage, then operations by micro-batch.
        for k in range(counted.size):
            counted[k] = 0
        while row < task.size and task[row] == i:
            p, s, part = int(phase[row]), int(stage[row]), int(micro_batch[row])
            where[0] = row
            if node[row] != layout.node[i]:
                return OTHER_NODE
            if s >= stages or part >= (1 if p == UPDATE else parts):
                return NO_PLACE
            if (
                row > begin
                and phase[row - 1] == p
                and stage[row - 1] == s
                and micro_batch[row - 1] == part
            ):
                return TWICE
            if p == UPDATE:
                right &= counted[s] == parts
            else:
                counted[stages + part] += 1
            if p == BACKWARD:
                counted[s] += 1
                right &= turned == parts or not (flushes and s == last)
            elif p == FORWARD and s == last:
                turned += 1
            # A request has no backwards or updates, and they are passed over.
            if p == FORWARD or (layout.training[i] and p <= UPDATE):
                layout.plan_row[row_at(layout, i, p, s, part)] = row
            row += 1
        whole = 2 * stages if layout.training[i] else stages
        for part in range(parts):
            length, ran = 0, counted[stages + part]
            while length < whole:
                p, s = phase_at(layout, length), stage_at(layout, length)
                if layout.plan_row[row_at(layout, i, p, s, part)] == NONE:
                    break
                length += 1
            layout.chain[i * layout.micro_batches + part] = length
            right &= length >= min(ran, whole) and (ran >= whole or not done[i])
        if found == RIGHT and not right:
            found, bad = NO_BEGINNING, i
    if found != RIGHT:
        where[0] = bad
    return found


def queues_of(instance: Instance, costs: Costs, layout: Layout) -> Queues:
    """Return the queue of every GPU: by planned start, then planned end, then number."""
    gpus = instance.cluster.nodes * instance.cluster.stages
    begin, end = np.zeros(gpus + 1, dtype=np.int64), np.zeros(gpus, dtype=np.int64)
    marks = np.zeros(layout.plan_row.size, dtype=np.uint8)
    number = np.empty(int(layout.chain.sum(dtype=np.int64)), dtype=np.int64)
    start_s, end_s = np.empty(number.size), np.empty(number.size)
    called(mark_last, layout, marks)
    called(fill_queues, layout, marks, begin, end, number, start_s, end_s)
    seconds = [
        fixed(column, np.float64) for column in (costs.forward_s, costs.backward_s, costs.closing_s)
    ]
    some_free = called(lacks_length, layout, *seconds[:2])
    for gpu in range(gpus):
        own = slice(begin[gpu], begin[gpu + 1])
        # A stable sort keeps the numbers, which rise, in order.
        order = np.lexsort((end_s[own], start_s[own]))
        number[own] = number[own][order]
        if some_free:
            kind = int(instance.cluster.node_class[gpu // layout.stages])
            times = number[own], start_s[own][order], end_s[own][order]
            end[gpu] = begin[gpu] + called(set_free, layout, marks, *times, *seconds, kind)
    return Queues(begin, end, number, marks)


def mark_last(layout: Layout, marks: Any) -> int:
    """Mark the last backward of every task and stage, if all of them ran."""
    for i in range(layout.training.size):
        first = i * layout.micro_batches
        for s in range(layout.stages if layout.training[i] else 0):
            latest, latest_s = NONE, 0.0
            for part in range(layout.micro_batches):
                if layout.chain[first + part] <= 2 * layout.stages - 1 - s:
                    latest = NONE
                    break
                row = row_at(layout, i, BACKWARD, s, part)
                plan_s = layout.start_s[layout.plan_row[row]]
                if latest == NONE or plan_s >= latest_s:
                    latest, latest_s = row, plan_s
            if latest != NONE:
                marks[latest] |= LAST
    return 0


def fill_queues(
    layout: Layout, marks: Any, begin: Any, end: Any, number: Any, start_s: Any, end_s: Any
) -> int:
    """Put operations together by GPU, with their planned start, and end with their update."""
    for item in range(layout.chain.size):
        first = layout.node[owner(layout, item)] * layout.stages
        for place in range(layout.chain[item]):
            begin[first + stage_at(layout, place) + 1] += 1
    for gpu in range(end.size):
        begin[gpu + 1] += begin[gpu]
        end[gpu] = begin[gpu]
    for item in range(layout.chain.size):
        task = owner(layout, item)
        part = item - task * layout.micro_batches
        for place in range(layout.chain[item]):
            stage = stage_at(layout, place)
            row = index(row_at(layout, task, phase_at(layout, place), stage, part))
            own = index(layout.plan_row[row])
            gpu = index(layout.node[task] * layout.stages + stage)
            at = index(end[gpu])
            end[gpu] = at + 1
            number[at] = number_of(item, place)
            start_s[at] = layout.start_s[own]
            if marks[row] & LAST and layout.updates:
                update = layout.plan_row[row_at(layout, task, UPDATE, stage, 0)]
                own = index(update) if update != NONE else own
            end_s[at] = layout.end_s[own]
    return 0


def lacks_length(layout: Layout, forward_s: Any, backward_s: Any) -> bool:
    """Whether an operation takes no time; one of no node that has it counts, too."""
    for kind in range(forward_s.shape[0]):
        for i in range(layout.training.size):
            parts = parts_of(layout, i)
            for s in range(layout.stages):
                if forward_s[kind, i, s] / parts == 0.0:
                    return True
                if layout.training[i] and backward_s[kind, i, s] / parts == 0.0:
                    return True
    return False


def set_free(
    layout: Layout,
    marks: Any,
    queue: Any,
    start_s: Any,
    end_s: Any,
    forward_s: Any,
    backward_s: Any,
    closing_s: Any,
    kind: int,
) -> int:
    """Mark operations without length within others and take them out; return how many stay."""
    until_s, kept = -np.inf, 0
    for at in range(queue.size):
        item, place = item_of(queue[at]), place_of(queue[at])
        task = owner(layout, item)
        part = item - task * layout.micro_batches
        phase, stage = phase_at(layout, place), stage_at(layout, place)
        row = row_at(layout, task, phase, stage, part)
        whole_s = (forward_s if phase == FORWARD else backward_s)[kind, task, stage]
        seconds = whole_s / parts_of(layout, task)
        if marks[row] & LAST:
            seconds += closing_s[kind, stage]
        if seconds == 0 and until_s > start_s[at] + NOISE_S:
            marks[row] |= FREE
        else:
            queue[kept] = queue[at]
            kept += 1
        until_s = max(until_s, end_s[at])
    return kept
