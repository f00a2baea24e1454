"""Execution of a given order, compiled: starts, ends, drops and releases in order of time."""

from __future__ import annotations

from math import inf, nan

from lemix_opt.engine.books import OPEN
from lemix_opt.engine.follow_books import (
    BLOCKED,
    END,
    EVENTS,
    FIRST_GPU,
    FIRST_ITEM,
    GIVE_WAY,
    LACK,
    LAST_GPU,
    LAST_ITEM,
    PLANNED_DROP,
    RANK_SHIFT,
    RELEASED,
    Given,
    Progress,
    await_event,
    moment,
    next_event,
    row_of,
    task_of,
)
from lemix_opt.engine.follow_memory import free, recount, take_memory, wake
from lemix_opt.engine.follow_turns import stage_after, take_up, told_at
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.planned import (
    FREE,
    LAST,
    NOISE_S,
    NONE,
    Layout,
    Queues,
    item_of,
    number_of,
    owner,
    parts_of,
    phase_at,
    place_of,
    row_at,
    stage_at,
)
from lemix_opt.schedule import BACKWARD, DROPPED, FORWARD, UPDATE


@inlined
def release_after(run: Progress, task: int, time_s: float) -> None:
    """Release the training task that waits for a task in the closed loop."""
    follower = run.successor[task]
    if follower != NONE:
        run.successor[task] = NONE
        run.release_s[follower] = max(run.own_s[follower], time_s)
        run.todo[RELEASED] = follower


@inlined
def closes_loop(layout: Layout, given: Given, run: Progress, ahead: int, task: int) -> bool:
    """Whether a training task waits for the one before it; an earlier stored release stands."""
    plan_s = -inf
    for part in range(parts_of(layout, ahead)):
        row = layout.plan_row[row_at(layout, ahead, given.event, 0, part)]
        plan_s = max(plan_s, inf if row == NONE else layout.end_s[row])
    if plan_s == inf and given.state[ahead] == DROPPED:
        drop_s = -inf
        for k in range(given.told_first[ahead], given.told_first[ahead + 1]):
            drop_s = max(drop_s, given.told_s[k])
        plan_s = drop_s if drop_s > -inf else inf
    plan_s = min(plan_s, given.gives_way_s[ahead])
    stored_s = given.stored_s[task]
    if stored_s < max(run.own_s[task], plan_s) - NOISE_S:
        run.own_s[task] = max(run.own_s[task], stored_s)
        return False
    return True


@inlined
def arrive(layout: Layout, given: Given, run: Progress, task: int, ahead: int) -> int:
    """Release a task unless the one before it in the closed loop is to; return the next's."""
    if layout.training[task] and given.release_mode != OPEN:
        if ahead != NONE and closes_loop(layout, given, run, ahead, task):
            run.successor[ahead] = task
            return task
        ahead = task
    run.release_s[task] = run.own_s[task]
    run.todo[RELEASED] = task
    return ahead


@inlined
def drop(
    layout: Layout,
    queues: Queues,
    given: Given,
    run: Progress,
    task: int,
    stage: int,
    now_s: float,
) -> None:
    """Take a task out for lack of memory; the stage is −1 if the plan tells of no event."""
    if run.gone[task]:
        return
    run.gone[task] = 1
    run.end_state[task] = DROPPED
    first = index(task * layout.micro_batches)
    parts = parts_of(layout, task)
    for item in range(first, first + parts):
        run.ready_s[item] = nan
    if stage >= 0:
        event = run.counts[EVENTS]
        run.event_task[event], run.event_stage[event], run.event_s[event] = task, stage, now_s
        run.counts[EVENTS] = event + 1
    release_after(run, task, now_s)
    node = layout.node[task]
    if node < 0:
        return
    run.todo[FIRST_GPU] = node * layout.stages
    run.todo[LAST_GPU] = (node + 1) * layout.stages
    for s in range(layout.stages):
        gpu = index(node * layout.stages + s)
        running = run.running[gpu]
        # A micro-batch that runs keeps its memory until it ends.
        if running == NONE or task_of(layout, running) != task:
            for item in range(first, first + parts):
                free(layout, queues, given, run, item, gpu, s)
            wake(run, gpu, now_s)


@inlined
def start(
    layout: Layout, queues: Queues, given: Given, run: Progress, number: int, now_s: float
) -> None:
    """Let an operation run that has its turn and its memory."""
    item, place = item_of(number), place_of(number)
    task, stage = owner(layout, item), stage_at(layout, place)
    node = layout.node[task]
    kind = given.node_class[node]
    row = row_of(layout, number)
    begin_s = moment(given, now_s, layout.start_s[index(layout.plan_row[row])])
    if given.gives_way_s[task] < inf and run.successor[task] != NONE:
        # It starts before it was to give way: whoever waits for it waits no longer than that.
        run.gave_way_s[task] = begin_s
        release_after(run, task, begin_s)
    if place < layout.stages:
        seconds = given.forward_s[kind, task, stage]
    else:
        seconds = given.backward_s[kind, task, stage]
    end_s = begin_s + seconds / parts_of(layout, task)
    run.ready_s[item] = nan
    if not queues.marks[row] & FREE:
        run.running[node * layout.stages + stage] = number
    run.start_s[row], run.end_s[row] = begin_s, end_s
    if queues.marks[row] & LAST and given.closing_s[kind, stage] > 0.0:
        row = index(row_at(layout, task, UPDATE, stage, 0))
        run.start_s[row], run.end_s[row] = end_s, end_s + given.closing_s[kind, stage]
    await_event(run, end_s, END, number)


@inlined
def advance(
    layout: Layout, queues: Queues, given: Given, run: Progress, number: int, now_s: float
) -> None:
    """Make ready what waited for the end of an operation."""
    item, place = item_of(number), place_of(number)
    task, stage = owner(layout, item), stage_at(layout, place)
    phase, trains = phase_at(layout, place), layout.training[task]
    kind = given.node_class[layout.node[task]]
    hop_s = 0.0
    if phase == FORWARD and stage < layout.stages - 1:
        hop_s = given.hop_s[kind, task, stage]
    elif phase == BACKWARD and stage > 0:
        hop_s = given.hop_s[kind, task, stage - 1]
    run.at[item] += 1
    run.offered[item] = 0
    run.ready_s[item] = now_s + hop_s
    if phase == FORWARD and trains and queues.marks[row_of(layout, number)] & FREE:
        recount(layout, queues, given, run, item, stage)
    if stage == 0 and phase == given.event:
        run.loop_left[task] -= 1
        if run.loop_left[task] == 0:
            release_after(run, task, now_s)
    run.todo[FIRST_ITEM], run.todo[LAST_ITEM] = item, item + 1
    if given.flushes and trains and phase == FORWARD and stage == layout.stages - 1:
        # GPipe: no backward before the last forward on the last stage.
        run.flush_left[task] -= 1
        run.ready_s[item] = nan
        first = index(task * layout.micro_batches)
        run.todo[FIRST_ITEM], run.todo[LAST_ITEM] = first, first
        if run.flush_left[task] == 0:
            run.todo[LAST_ITEM] = first + layout.micro_batches
            for sibling in range(first, first + layout.micro_batches):
                run.ready_s[sibling] = now_s


@inlined
def end(
    layout: Layout, queues: Queues, given: Given, run: Progress, number: int, now_s: float
) -> None:
    """End an operation, and go on with what comes next on its GPU."""
    item, place = item_of(number), place_of(number)
    task, stage = owner(layout, item), stage_at(layout, place)
    node = layout.node[task]
    gpu = index(node * layout.stages + stage)
    gone, last = run.gone[task], item + 1
    if gone:
        item = index(task * layout.micro_batches)
        last = item + parts_of(layout, task)
    else:
        advance(layout, queues, given, run, number, now_s)
    if gone or place >= layout.stages or not layout.training[task]:
        while item < last:
            free(layout, queues, given, run, index(item), gpu, stage)
            item += 1
        wake(run, gpu, now_s)
    marks = queues.marks[row_of(layout, number)]
    if not marks & FREE:
        run.running[gpu] = NONE
        update_s = given.closing_s[given.node_class[node], stage] if marks & LAST else 0.0
        run.idle_from_s[gpu] = now_s + update_s
        run.turn[gpu] += not gone
        run.todo[FIRST_GPU], run.todo[LAST_GPU] = gpu, gpu + 1


@inlined
def take_longest_waiting(run: Progress) -> int:
    """Return the forward that has waited longest for memory, which waits no more."""
    longest = NONE
    for gpu in range(run.blocked.size):
        if run.blocked[gpu] != NONE and (
            longest == NONE or run.blocked_s[gpu] < run.blocked_s[longest]
        ):
            longest = gpu
    number = run.blocked[longest]
    run.blocked[longest] = NONE
    run.counts[BLOCKED] -= 1
    return number


def execute(layout: Layout, queues: Queues, given: Given, run: Progress) -> int:
    """Run to the end; return the first operation that never ran though nothing dropped its task.

    −1: there is none.
    """
    arrived, ahead, now_s = 0, NONE, 0.0
    while True:
        run.todo[RELEASED] = NONE
        run.todo[FIRST_ITEM], run.todo[LAST_ITEM] = 0, 0
        run.todo[FIRST_GPU], run.todo[LAST_GPU] = 0, 0
        dropped, stage = NONE, NONE
        arrives = arrived < layout.training.size
        time_s, key = (now_s, NONE) if arrives else next_event(run)
        if arrives:
            ahead = arrive(layout, given, run, arrived, ahead)
            arrived += 1
        elif key != NONE:
            rank, number = key >> RANK_SHIFT, index(key & ((1 << RANK_SHIFT) - 1))
            if rank == GIVE_WAY and run.successor[number] == NONE:
                continue
            now_s = time_s
            if rank == GIVE_WAY:
                run.gave_way_s[number] = now_s
                release_after(run, number, now_s)
            elif rank == PLANNED_DROP:
                dropped = number
                stage = stage_after(layout, run, number)
                if told_at(given, number, stage) == -inf:
                    stage = NONE
            elif rank == END:
                end(layout, queues, given, run, number, now_s)
            elif not run.gone[task_of(layout, number)]:
                fate, place = END, place_of(number)
                if place < layout.stages:
                    fate = take_memory(layout, queues, given, run, number, rank, now_s)
                if fate == END:
                    start(layout, queues, given, run, number, now_s)
                elif fate == LACK:
                    dropped, stage = task_of(layout, number), place
        elif run.counts[BLOCKED]:
            # Nothing else can happen: whoever has waited longest for memory gets none.
            number = take_longest_waiting(run)
            dropped, stage = task_of(layout, number), place_of(number)
        else:
            break
        if dropped != NONE:
            drop(layout, queues, given, run, index(dropped), stage, now_s)
        take_up(layout, queues, given, run)
    for item in range(layout.chain.size):
        if run.at[item] < layout.chain[item] and not run.gone[owner(layout, item)]:
            return number_of(item, run.at[item])
    return NONE
