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
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.view import View
from lemix_opt.schedule import BACKWARD, FORWARD

SLACK_S = 1e-9
"""Seconds by which a forward may overlap a reservation because of floating-point noise."""
SLACK_BYTES = 1e-3
"""Bytes by which sums of gigabytes may be off."""


@inlined
def task_of(rules: Rules, item: int) -> int:
    """Return the task an item is a micro-batch of."""
    return item if rules.micro_batches == 1 else item // rules.micro_batches


@inlined
def has_room(
    view: View, truth: Truth, books: Books, rules: Rules, item: int, node: int, stage: int
) -> bool:
    """Whether an item's forward can take its memory beside what is held now."""
    task = task_of(rules, item)
    held = truth.held_bytes[view.node_class[node], task, stage]
    if rules.micro_batches > 1 and view.training[task]:
        held /= rules.micro_batches
    gpu = node * rules.stages + stage
    return books.used_bytes[gpu] + held <= view.capacity_bytes[node, stage] + SLACK_BYTES


@inlined
def next_forward(
    view: View, truth: Truth, books: Books, rules: Rules, node: int, stage: int
) -> int:
    """Return the item whose forward may start on a GPU by order and memory, or NONE."""
    gpu = node * rules.stages + stage
    if rules.one_order and stage > 0:
        item = books.due[gpu]
        if item == NONE or books.place[item] != stage or not isnan(books.begun_s[item]):
            return NONE
        return item if has_room(view, truth, books, rules, item, node, stage) else NONE
    item = books.head[FORWARD, gpu]
    while item != NONE:
        if has_room(view, truth, books, rules, item, node, stage):
            return item
        if rules.one_order or rules.order == ORDER_FIFO:
            return NONE
        item = books.after[item]
    return NONE


@inlined
def owed_at_s(
    view: View, books: Books, rules: Rules, item: int, node: int, stage: int, now_s: float
) -> float:
    """Predict when an item's backward on a GPU becomes ready if nothing delays it."""
    stages = rules.stages
    kind = view.node_class[node]
    task = task_of(rules, item)
    share = rules.micro_batches
    backwards = books.place[item] >= stages
    at = books.place[item] - stages if backwards else books.place[item]
    begun = books.begun_s[item]
    if isnan(begun):
        begun = max(now_s, books.busy_until_s[node * stages + at])
    if backwards:
        time_s = max(now_s, begun + view.backward_s[kind, task, at] / share)
    else:
        time_s = max(now_s, begun + view.forward_s[kind, task, at] / share)
        for s in range(at + 1, stages):
            time_s += view.hop_s[kind, task, s - 1] + view.forward_s[kind, task, s] / share
        if stage == stages - 1:
            return time_s
        at = stages - 1
        time_s += view.backward_s[kind, task, at] / share
    for s in range(at - 1, stage, -1):
        time_s += view.hop_s[kind, task, s] + view.backward_s[kind, task, s] / share
    return time_s + view.hop_s[kind, task, stage]


@inlined
def fits_before_backwards(
    view: View, books: Books, rules: Rules, item: int, node: int, stage: int, now_s: float
) -> bool:
    """Whether a forward ends before the next backward owed on its GPU becomes ready."""
    gpu = node * rules.stages + stage
    if books.owes[gpu] == 0:
        return True
    task = task_of(rules, item)
    share = rules.micro_batches if view.training[task] else 1
    end_s = now_s + view.forward_s[view.node_class[node], task, stage] / share
    for k in range(books.owes[gpu]):
        ready_s = owed_at_s(view, books, rules, books.owed[gpu, k], node, stage, now_s)
        if end_s > ready_s + SLACK_S:
            return False
    return True


@inlined
def pick(
    view: View, truth: Truth, books: Books, rules: Rules, node: int, stage: int, now_s: float
) -> int:
    """Return what an idle GPU starts now: 2·item + phase, or NONE."""
    backward = books.head[BACKWARD, node * rules.stages + stage]
    if backward != NONE and rules.order in (ORDER_RESERVE, ORDER_BACKWARD_FIRST):
        return 2 * backward + BACKWARD
    forward = next_forward(view, truth, books, rules, node, stage)
    if forward == NONE:
        return NONE if backward == NONE else 2 * backward + BACKWARD
    if backward != NONE:
        if rules.order == ORDER_TASK_ID:
            first = backward <= forward
        else:
            first = books.ready_s[backward] <= books.ready_s[forward]
        if first:
            return 2 * backward + BACKWARD
    if rules.order == ORDER_RESERVE and not fits_before_backwards(
        view, books, rules, forward, node, stage, now_s
    ):
        return NONE
    return 2 * forward + FORWARD
