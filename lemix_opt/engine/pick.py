"""The rule that picks what a GPU runs next."""

from __future__ import annotations

from math import isnan

from lemix_opt.engine.books import (
    NONE,
    ORDER_BACKWARD_FIRST,
    ORDER_FIFO,
    ORDER_RESERVE,
    ORDER_TASK_ID,
    Books,
    Rules,
    Truth,
)
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.parts import may_follow, task_of
from lemix_opt.engine.plain import generation_of, offloads_of, parts_of, timed_of
from lemix_opt.engine.reserve import feeds_first, fits_before_backwards
from lemix_opt.engine.view import View
from lemix_opt.engine.waits import SLACK_BYTES, may_go, memory_allows
from lemix_opt.schedule import BACKWARD, FORWARD

SEARCH = -2
"""Instead of an item: the queue says which forward is next."""


@inlined
def begun_here(view: View, books: Books, rules: Rules, item: int, stage: int) -> bool:
    """Whether another micro-batch of an item's task has begun on a stage."""
    task = index(task_of(rules, item))
    if parts_of(rules) == 1 or not view.training[task]:
        return False
    return bool(books.begun_parts[task * rules.stages + stage] > 0)


@inlined
def may_start(
    view: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    item: int,
    node: int,
    stage: int,
    now_s: float,
) -> bool:
    """Whether an item's forward can take its memory beside what is held now."""
    task = index(task_of(rules, item))
    if begun_here(view, books, rules, item, stage):
        return may_follow(books, rules, task * rules.stages + stage, stage)
    held = truth.held_bytes[view.node_class[node], task, stage]
    gpu = index(node * rules.stages + stage)
    fits = bool(books.used_bytes[gpu] + held <= view.capacity_bytes[node, stage] + SLACK_BYTES)
    return may_go(books, rules, item, fits, now_s) if timed_of(rules) else fits


@inlined
def waiting_iteration(books: Books, rules: Rules, node: int, stage: int) -> int:
    """Return the item of the node's iteration if it waits for this GPU, or NONE.

    It passes forwards that wait for memory, since it is what frees memory, and keeps no order with
    others under ``fifo``.
    """
    if generation_of(rules) == 0:
        return NONE
    item = index((rules.tasks + node) * parts_of(rules))
    return item if books.place[item] == stage and isnan(books.begun_s[item]) else NONE


@inlined
def next_forward(
    view: View, truth: Truth, books: Books, rules: Rules, node: int, stage: int, now_s: float
) -> int:
    """Return the item whose forward may start on a GPU by order and memory, or NONE."""
    gpu = index(node * rules.stages + stage)
    iteration = waiting_iteration(books, rules, node, stage)
    if rules.one_order:
        item = NONE
        if stage > 0:
            item = books.due[gpu]
            if item == NONE or books.place[item] != stage or not isnan(books.begun_s[item]):
                return iteration
        elif parts_of(rules) > 1 and books.turn_last[node] != NONE:
            # In one order of items, a task among another one's micro-batches could wait for good.
            last = books.turn_last[node]
            if view.training[task_of(rules, last)] and (last + 1) % parts_of(rules):
                item = last + 1
        if item != NONE:
            if stage > 0 and iteration != NONE and books.ready_s[iteration] < books.ready_s[item]:
                return iteration
            return (
                item
                if may_start(view, truth, books, rules, item, node, stage, now_s)
                else iteration
            )
    item = books.head[FORWARD, gpu]
    held_up = False
    while item != NONE:
        item = index(item)
        passes = not held_up or begun_here(view, books, rules, item, stage)
        if passes and may_start(view, truth, books, rules, item, node, stage, now_s):
            return item
        if rules.one_order or rules.order == ORDER_FIFO:
            if parts_of(rules) == 1:
                return iteration
            # Micro-batches that hold their memory pass what waits for memory: they free it.
            held_up = True
        item = books.after[item]
    return iteration if held_up else NONE


@inlined
def next_backward(
    view: View, truth: Truth, books: Books, rules: Rules, node: int, stage: int, now_s: float
) -> int:
    """Return the item whose backward is next on a GPU, or NONE.

    One whose activations are away needs their memory, and is passed by others until it is free.
    """
    item = books.head[BACKWARD, node * rules.stages + stage]
    if offloads_of(rules):
        while item != NONE and books.away[item * rules.stages + stage]:
            fits = memory_allows(view, truth, books, rules, item)
            if may_go(books, rules, item, fits, now_s):
                break
            item = books.after[item]
    return item


@inlined
def pick(
    view: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    node: int,
    stage: int,
    now_s: float,
    waived: bool,
    given: int,
) -> int:
    """Return what an idle GPU starts now: 2·item + phase, or NONE; reservations may be waived.

    `given` is the item whose forward is next, NONE for no forward, or SEARCH to look for it.
    """
    backward = next_backward(view, truth, books, rules, node, stage, now_s)
    leads = rules.order == ORDER_BACKWARD_FIRST
    leads = leads or (rules.order == ORDER_RESERVE and not feeds_first(rules, stage))
    if backward != NONE and leads:
        return 2 * backward + BACKWARD
    forward = given
    if given == SEARCH:
        forward = next_forward(view, truth, books, rules, node, stage, now_s)
    if forward == NONE:
        return NONE if backward == NONE else 2 * backward + BACKWARD
    if backward != NONE:
        if rules.order == ORDER_TASK_ID:
            first = backward <= forward
        else:
            first = books.ready_s[backward] <= books.ready_s[forward]
        if rules.order == ORDER_RESERVE:
            first = first or task_of(rules, backward) != task_of(rules, forward)
        if first:
            return 2 * backward + BACKWARD
    if (
        rules.order == ORDER_RESERVE
        and not waived
        and not fits_before_backwards(view, books, rules, forward, node, stage, now_s)
    ):
        return NONE
    return 2 * forward + FORWARD
