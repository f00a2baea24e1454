"""What starts on a node where operations wait for memory by the clock or two share a GPU."""

from __future__ import annotations

from math import isnan, nan
from typing import Any

from lemix_opt.engine.books import NONE, Books, Rules, Truth
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.lanes import slow_down
from lemix_opt.engine.offload import make_room, move
from lemix_opt.engine.pick import SEARCH, next_forward, pick
from lemix_opt.engine.plain import offloads_of, sync_every_of, threads_of, threshold_of
from lemix_opt.engine.steps import begin, send_weights
from lemix_opt.engine.view import View
from lemix_opt.engine.waits import begin_wait, fail, fits_gpu, memory_allows, push_looks
from lemix_opt.schedule import BACKWARD, FORWARD, RELOAD


@inlined
def next_turn(
    view: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    node: int,
    stage: int,
    lane: int,
    now_s: float,
) -> int:
    """Return whose turn it is in a lane: 2·item + phase, or NONE."""
    if not threads_of(rules):
        return pick(view, truth, books, rules, node, stage, now_s, False, SEARCH)
    if lane == 1:
        backward = books.head[BACKWARD, node * rules.stages + stage]
        return NONE if backward == NONE else 2 * backward + BACKWARD
    forward = next_forward(view, truth, books, rules, node, stage, now_s)
    return NONE if forward == NONE else 2 * forward + FORWARD


@inlined
def passes_threshold(
    view: View, truth: Truth, books: Books, rules: Rules, item: int, slot: int, now_s: float
) -> bool:
    """Whether an operation may start by the published rule; it keeps its lane while it waits."""
    waits = not isnan(books.deadline_s[item])
    if waits and rules.poll_s > 0:
        return False
    if not memory_allows(view, truth, books, rules, item):
        if not waits:
            begin_wait(books, rules, item, now_s)
            books.taken[slot] = item
        return False
    books.deadline_s[item] = nan
    books.taken[slot] = NONE
    if books.place[item] < rules.stages and not fits_gpu(view, truth, books, rules, item):
        fail(books, rules, item)
        return False
    return True


@inlined
def take_turns(
    view: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    observe: Any,
    state: Any,
    times: Any,
    keys: Any,
    size: int,
    node: int,
    now_s: float,
) -> int:
    """Start on a node's GPUs what may start now; return the size of the heap of events."""
    stages = rules.stages
    for stage in range(stages - 1, -1, -1):
        gpu = node * stages + stage
        for lane in range(1 + threads_of(rules)):
            slot = gpu + lane * rules.nodes * stages
            if books.running[slot]:
                continue
            item = books.taken[slot]
            worker = lane == 0 and stage == stages - 1
            if item == NONE or threshold_of(rules):
                if worker and sync_every_of(rules) and books.sync_task[node] != NONE:
                    send_weights(view, truth, books, rules, node, now_s)
                    continue
                if offloads_of(rules) and make_room(view, truth, books, rules, node, stage, now_s):
                    continue
            if item == NONE:
                chosen = next_turn(view, truth, books, rules, node, stage, lane, now_s)
                size = push_looks(books, times, keys, size)
                if chosen == NONE:
                    continue
                item = chosen >> 1
            if threshold_of(rules):
                goes = passes_threshold(view, truth, books, rules, item, slot, now_s)
                size = push_looks(books, times, keys, size)
                if not goes:
                    continue
            phase = FORWARD if books.place[item] < stages else BACKWARD
            if offloads_of(rules):
                books.taken[slot] = NONE
                if phase == BACKWARD and books.away[item * stages + stage]:
                    move(view, truth, books, rules, item, RELOAD, node, stage, now_s)
                    continue
            begin(
                view,
                view,
                truth,
                books,
                rules,
                observe,
                state,
                node,
                stage,
                slot,
                item,
                phase,
                now_s,
            )
            if threads_of(rules):
                slow_down(view, books, rules, slot, now_s)
    return size
