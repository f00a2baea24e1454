"""Steps of the event loop: what an arrival, a start, an end or a drop changes in the books."""

from __future__ import annotations

from math import isnan
from typing import Any

from lemix_opt.engine.batches import REFERENCE, Batches
from lemix_opt.engine.books import NONE, ORDER_RESERVE, Books, Rules, Truth
from lemix_opt.engine.codes import SEES_START
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.parts import free_all, runs_on, task_of
from lemix_opt.engine.pick import SEARCH, pick
from lemix_opt.engine.plain import generation_of, offloads_of, parts_of, sync_every_of, threshold_of
from lemix_opt.engine.queues import (
    RANK_DECIDE,
    operation_key,
    push,
    remove,
    set_end,
)
from lemix_opt.engine.reference_batches import gather, takes_request
from lemix_opt.engine.reserve import stands_still
from lemix_opt.engine.view import View
from lemix_opt.engine.waits import SLACK_BYTES
from lemix_opt.schedule import BACKWARD, FORWARD, OFFLOAD, SYNC, UPDATE


@inlined
def row_of(books: Books, rules: Rules, view: View, item: int, phase: int, stage: int) -> int:
    """Return the row of an operation in the canonical order of its task."""
    task = index(task_of(rules, item))
    if not view.training[task]:
        return books.row[task] + stage
    if phase >= SYNC:
        moves = 2 * rules.stages * offloads_of(rules)
        if phase == SYNC:
            return books.row[task + 1] - 1 - moves
        return books.row[task + 1] - moves + (phase - OFFLOAD) * rules.stages + stage
    parts = parts_of(rules)
    part = item - task * parts
    if phase == UPDATE:
        return books.row[task] + 2 * rules.stages * parts + stage
    return books.row[task] + (phase * rules.stages + stage) * parts + part


@inlined
def settle(books: Books, gpu: int, item: int) -> None:
    """Strike an item's backward from what a GPU owes."""
    for k in range(books.owes[gpu]):
        if books.owed[gpu, k] == item:
            books.owes[gpu] -= 1
            books.owed[gpu, k] = books.owed[gpu, books.owes[gpu]]
            break


@inlined
def forget(books: Books, rules: Rules, item: int, node: int) -> None:
    """Take a dropped item out of all that waits for it."""
    for stage in range(rules.stages):
        gpu = index(node * rules.stages + stage)
        settle(books, gpu, item)
        if rules.one_order and books.due[gpu] == item:
            books.due[gpu] = books.turn_after[item]
    if rules.one_order:
        # Whoever is ahead of it in the node's order is followed by the next one now.
        ahead = NONE
        for stage in range(1, rules.stages):
            candidate = books.due[node * rules.stages + stage]
            while candidate != NONE:
                if books.turn_after[candidate] == item:
                    books.turn_after[candidate] = books.turn_after[item]
                    ahead = candidate
                candidate = books.turn_after[candidate]
        if books.turn_last[node] == item:
            books.turn_last[node] = ahead


@inlined
def release_after(
    view: View, books: Books, times: Any, keys: Any, size: int, task: int, now_s: float
) -> int:
    """Release the training task that waits for this one in the closed loop."""
    follower = books.successor[task]
    if follower == NONE:
        return size
    books.successor[task] = NONE
    release_s = max(view.release_s[follower], now_s)
    books.release_s[follower] = release_s
    return push(times, keys, size, release_s, operation_key(RANK_DECIDE, follower, 0, 0))


@inlined
def give_way(
    view: View, books: Books, times: Any, keys: Any, size: int, task: int, now_s: float
) -> int:
    """Let the training task behind a deferred one go ahead in the closed loop, and note when."""
    if books.successor[task] != NONE:
        books.gave_way_s[task] = now_s
    return release_after(view, books, times, keys, size, task, now_s)


@inlined
def touch(touched: Any, is_touched: Any, touches: int, node: int) -> int:
    """Note, in order, a node on which something may start now."""
    if is_touched[node]:
        return touches
    is_touched[node] = 1
    at = touches
    while at > 0 and touched[at - 1] > node:
        touched[at] = touched[at - 1]
        at -= 1
    touched[at] = node
    return touches + 1


@inlined
def free(
    view: View, truth: Truth, books: Books, rules: Rules, task: int, node: int, stage: int
) -> None:
    """Give back all that a task holds on a GPU."""
    held = truth.held_bytes[view.node_class[node], task, stage]
    free_all(truth, books, rules, node, stage, held)


@inlined
def fits_alone(view: View, truth: Truth, rules: Rules, task: int, node: int, stage: int) -> bool:
    """Whether a task's forward fits on an otherwise empty GPU; a threshold does not ask this."""
    if threshold_of(rules):
        return True
    held = truth.held_bytes[view.node_class[node], task, stage]
    room_bytes = view.capacity_bytes[node, stage] - truth.resident_bytes[node, stage]
    return held <= room_bytes + SLACK_BYTES


@inlined
def drop_parts(
    view: View, truth: Truth, books: Books, rules: Rules, task: int, node: int, stage: int
) -> None:
    """Take a task out whose first forward on a stage fits nowhere, with all its micro-batches."""
    parts = parts_of(rules)
    for item in range(task * parts, task * parts + parts):
        if stage > 0 and isnan(books.begun_s[item]):
            remove(books, FORWARD, node * rules.stages + books.place[item], item)
        forget(books, rules, item, node)
    for s in range(stage):
        gpu = index(node * rules.stages + s)
        # A forward that runs keeps its memory until it ends.
        if not runs_on(books, rules, task, gpu):
            free(view, truth, books, rules, task, node, s)


@inlined
def waits_for(books: Books, rules: Rules, node: int, stage: int) -> bool:
    """Whether anything waits for a GPU."""
    gpu = index(node * rules.stages + stage)
    if books.head[FORWARD, gpu] != NONE or books.head[BACKWARD, gpu] != NONE:
        return True
    return bool(
        sync_every_of(rules) and stage == rules.stages - 1 and books.sync_task[node] != NONE
    )


@inlined
def send_weights(
    view: View, truth: Truth, books: Books, rules: Rules, node: int, now_s: float
) -> None:
    """Begin the synchronisation that waits for a node's last stage; policies do not see it."""
    task = index(books.sync_task[node])
    stage = rules.stages - 1
    gpu = index(node * rules.stages + stage)
    end_s = now_s + truth.sync_s[node]
    item = index(task * parts_of(rules))
    row = index(row_of(books, rules, view, item, SYNC, stage))
    books.start_s[row] = now_s
    books.end_s[row] = end_s
    books.sync_task[node] = NONE
    books.running[gpu] = 1
    books.wants[gpu] = 0
    books.busy_until_s[gpu] = end_s
    set_end(books, gpu, end_s, operation_key(0, item, SYNC, stage))


@inlined
def begin(
    view: View,
    shown: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    observe: Any,
    state: Any,
    node: int,
    stage: int,
    slot: int,
    item: int,
    phase: int,
    now_s: float,
) -> None:
    """Start a queued operation on a GPU, in a slot of the tree of ends."""
    stages, parts = rules.stages, parts_of(rules)
    gpu = index(node * stages + stage)
    task = index(task_of(rules, item))
    trains = view.training[task]
    kind = view.node_class[node]
    if phase == FORWARD:
        seconds = truth.forward_s[kind, task, stage]
    else:
        seconds = truth.backward_s[kind, task, stage]
    end = now_s + seconds
    first, last = True, True
    if trains and parts > 1:
        at = task * stages + stage
        if phase == FORWARD:
            first = books.begun_parts[at] == 0
            books.begun_parts[at] += 1
        else:
            first = books.ended_parts[at] == 0
            last = books.ended_parts[at] == parts - 1
    busy = end
    if phase == BACKWARD and last:
        busy += truth.update_s[kind, stage]
    remove(books, phase, gpu, item)
    books.running[slot] = 1
    books.wants[gpu] = 0
    books.busy_until_s[gpu] = busy
    books.place[item] = phase * stages + stage
    books.begun_s[item] = now_s
    if phase == FORWARD:
        if trains and (rules.order == ORDER_RESERVE or offloads_of(rules)):
            books.owed[gpu, books.owes[gpu]] = item
            books.owes[gpu] += 1
        if first:
            books.used_bytes[gpu] += truth.held_bytes[kind, task, stage]
            books.holders[gpu] += 1
        if rules.one_order and task < rules.tasks:
            if stage:
                books.due[gpu] = books.turn_after[item]
            else:
                books.turn_after[item] = NONE
                if books.turn_last[node] != NONE:
                    books.turn_after[books.turn_last[node]] = item
                books.turn_last[node] = item
                for s in range(1, stages):
                    if books.due[node * stages + s] == NONE:
                        books.due[node * stages + s] = item
    elif rules.order == ORDER_RESERVE or offloads_of(rules):
        settle(books, gpu, item)
    row = index(row_of(books, rules, view, item, phase, stage))
    books.start_s[row] = now_s
    books.end_s[row] = end
    set_end(books, slot, end, operation_key(0, item, phase, stage))
    if first and rules.watched >> SEES_START & 1 and task < rules.tasks:
        observe(
            SEES_START,
            now_s,
            task,
            node,
            phase,
            stage,
            books.used_bytes[gpu],
            shown,
            state,
        )


@inlined
def dispatch(
    view: View,
    shown: View,
    truth: Truth,
    books: Books,
    batches: Batches,
    rules: Rules,
    observe: Any,
    state: Any,
    node: int,
    now_s: float,
) -> None:
    """Start on a node's GPUs what may start now."""
    stages = rules.stages
    # From the last stage down, so that what starts now counts in reservations. Micro-batches, and
    # requests that hold memory, may need a second round, in which one forward starts in spite of
    # them.
    rounds = parts_of(rules) > 1 or generation_of(rules) > 0
    stage, waived = stages, False
    while True:
        stage -= 1
        if stage < 0:
            if waived or not rounds or not stands_still(books, rules, node):
                return
            stage, waived = stages - 1, True
        gpu = index(node * stages + stage)
        gathers = stage == 0 and generation_of(rules) == REFERENCE
        if not books.wants[gpu] and (books.running[gpu] or not gathers):
            continue
        if sync_every_of(rules) and stage == stages - 1 and books.sync_task[node] != NONE:
            send_weights(view, truth, books, rules, node, now_s)
            continue
        given, chosen, again = SEARCH, NONE, True
        while again:
            if gathers:
                given = gather(view, truth, books, batches, rules, node, now_s)
            chosen = pick(view, truth, books, rules, node, stage, now_s, waived, given)
            again = gathers and takes_request(view, books, batches, rules, node, chosen)
        if chosen == NONE:
            continue
        begin(
            view,
            shown,
            truth,
            books,
            rules,
            observe,
            state,
            node,
            stage,
            gpu,
            chosen >> 1,
            chosen & 1,
            now_s,
        )
        if waived:
            return
