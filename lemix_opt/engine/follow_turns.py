"""Turns in the execution of a given order: which operations may start after an event."""

from __future__ import annotations

from math import inf, isnan

from lemix_opt.engine.follow_books import (
    FIRST_GPU,
    FIRST_ITEM,
    GIVE_WAY,
    LAST_GPU,
    LAST_ITEM,
    PLANNED_DROP,
    RELEASED,
    START,
    Given,
    Progress,
    await_event,
    moment,
    row_of,
    task_of,
)
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.planned import (
    FREE,
    NONE,
    Layout,
    Queues,
    item_of,
    number_of,
    owner,
    parts_of,
    place_of,
    stage_at,
)
from lemix_opt.schedule import DROPPED


@inlined
def take_up(layout: Layout, queues: Queues, given: Given, run: Progress) -> None:
    """Go on with the items and GPUs that an event has made ready.

    It comes after the event, and in one place, so that this code is compiled once.
    """
    released = run.todo[RELEASED]
    fresh, first_fresh = 0, 0
    if released != NONE:
        released = index(released)
        fresh, first_fresh = parts_of(layout, released), released * layout.micro_batches
        release_s = run.release_s[released]
        for item in range(first_fresh, first_fresh + fresh):
            run.ready_s[item] = release_s
        if given.gives_way_s[released] < inf:
            # A policy decided so at that moment, or would have when the task was released.
            await_event(run, max(release_s, given.gives_way_s[released]), GIVE_WAY, released)
    items = fresh + run.todo[LAST_ITEM] - run.todo[FIRST_ITEM]
    for k in range(items + run.todo[LAST_GPU] - run.todo[FIRST_GPU]):
        if k < items:
            item = first_fresh + k if k < fresh else run.todo[FIRST_ITEM] + k - fresh
            number = next_of(layout, given, run, index(item))
        else:
            number = head(layout, queues, run, index(run.todo[FIRST_GPU] + k - items))
        if number != NONE:
            try_start(layout, queues, given, run, number)


@inlined
def next_of(layout: Layout, given: Given, run: Progress, item: int) -> int:
    """Return an item's next operation; after the last one, drop a task as planned."""
    place = run.at[item]
    if place < layout.chain[item]:
        return number_of(item, place)
    task = owner(layout, item)
    leads = item == task * layout.micro_batches
    if leads and given.state[task] == DROPPED and not isnan(run.ready_s[item]):
        told_s = told_at(given, task, stage_after(layout, run, task))
        await_event(run, moment(given, run.ready_s[item], told_s), PLANNED_DROP, task)
    return NONE


@inlined
def stage_after(layout: Layout, run: Progress, task: int) -> int:
    """Return the stage a task is on its way to, by its first micro-batch."""
    last = (2 * layout.stages if layout.training[task] else layout.stages) - 1
    return stage_at(layout, min(run.at[index(task * layout.micro_batches)], last))


@inlined
def told_at(given: Given, task: int, stage: int) -> float:
    """Return when the schedule tells that a task lacked memory on a stage; −inf: it does not."""
    for k in range(given.told_first[task], given.told_first[task + 1]):
        if given.told_stage[k] == stage:
            return given.told_s[k]
    return -inf


@inlined
def head(layout: Layout, queues: Queues, run: Progress, gpu: int) -> int:
    """Return the operation whose turn it is on a GPU; those of dropped tasks are passed over."""
    turn, end = run.turn[gpu], queues.end[gpu]
    while turn < end and run.gone[task_of(layout, queues.number[turn])]:
        turn += 1
    run.turn[gpu] = turn
    return queues.number[turn] if turn < end else NONE


@inlined
def try_start(layout: Layout, queues: Queues, given: Given, run: Progress, number: int) -> None:
    """Plan the start of an operation that is ready and whose turn it is."""
    item, place = item_of(number), place_of(number)
    earliest_s = run.ready_s[item]
    if run.at[item] != place or run.offered[item] or isnan(earliest_s):
        return
    row = row_of(layout, number)
    if not queues.marks[row] & FREE:
        task = owner(layout, item)
        gpu = index(layout.node[task] * layout.stages + stage_at(layout, place))
        if run.running[gpu] != NONE or head(layout, queues, run, gpu) != number:
            return
        earliest_s = max(earliest_s, run.idle_from_s[gpu])
    run.offered[item] = 1
    plan_s = layout.start_s[index(layout.plan_row[row])]
    await_event(run, moment(given, earliest_s, plan_s), START, number)
