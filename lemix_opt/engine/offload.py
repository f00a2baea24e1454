"""Activations that leave a GPU for the host's memory, and come back for their backward."""

from __future__ import annotations

from math import inf, isnan

from lemix_opt.engine.books import NONE, Books, Rules, Truth
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.parts import free_all, runs_on
from lemix_opt.engine.queues import operation_key, queue_up, remove, set_end
from lemix_opt.engine.steps import row_of, settle
from lemix_opt.engine.view import View
from lemix_opt.engine.waits import memory_allows
from lemix_opt.schedule import BACKWARD, FORWARD, OFFLOAD, RELOAD


@inlined
def is_overdue(
    view: View, truth: Truth, books: Books, rules: Rules, gpu: int, now_s: float
) -> bool:
    """Whether an operation has waited for memory on a GPU for as long as it may."""
    if books.overdue[gpu] == 0:
        return False
    books.overdue[gpu] = 0
    for phase in (FORWARD, BACKWARD):
        item = books.head[phase, gpu]
        while item != NONE:
            if books.deadline_s[item] <= now_s:
                books.overdue[gpu] = 1
                if not memory_allows(view, truth, books, rules, item):
                    return True
            item = books.after[item]
    return False


@inlined
def victim(view: View, books: Books, rules: Rules, node: int, stage: int) -> int:
    """Return the task whose activations a GPU needs last, or NONE.

    That is the one whose forward began last there, among those whose backward is not ready there.
    """
    gpu = node * rules.stages + stage
    chosen, latest_s = NONE, -inf
    for k in range(books.owes[gpu]):
        item = books.owed[gpu, k]
        ready = books.place[item] == rules.stages + stage and isnan(books.begun_s[item])
        if ready or books.away[item * rules.stages + stage]:
            continue
        begun_s = books.start_s[row_of(books, rules, view, item, FORWARD, stage)]
        if begun_s > latest_s:
            chosen, latest_s = item, begun_s
    return chosen


@inlined
def move(
    view: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    item: int,
    phase: int,
    node: int,
    stage: int,
    now_s: float,
) -> None:
    """Begin to move a task's activations out of a GPU, or back; policies do not see it."""
    kind = view.node_class[node]
    gpu = node * rules.stages + stage
    held = truth.held_bytes[kind, item, stage]
    end_s = now_s + held / rules.offload_bytes_per_s
    busy_s = end_s
    if phase == RELOAD:
        busy_s += truth.backward_s[kind, item, stage] + truth.update_s[kind, stage]
        remove(books, BACKWARD, gpu, item)
        settle(books, gpu, item)
        books.begun_s[item] = now_s
        books.used_bytes[gpu] += held
        books.holders[gpu] += 1
    row = row_of(books, rules, view, item, phase, stage)
    books.start_s[row] = now_s
    books.end_s[row] = end_s
    books.running[gpu] = 1
    books.wants[gpu] = 0
    books.busy_until_s[gpu] = busy_s
    set_end(books, gpu, end_s, operation_key(0, item, phase, stage))


@inlined
def make_room(
    view: View, truth: Truth, books: Books, rules: Rules, node: int, stage: int, now_s: float
) -> bool:
    """Begin to move activations out if an operation is overdue; return whether the GPU is taken.

    Where there are none to move, backwards that are ready will free memory.
    """
    gpu = node * rules.stages + stage
    if not is_overdue(view, truth, books, rules, gpu, now_s):
        return False
    item = victim(view, books, rules, node, stage)
    if item == NONE:
        return False
    move(view, truth, books, rules, item, OFFLOAD, node, stage, now_s)
    return True


@inlined
def end_move(
    view: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    item: int,
    phase: int,
    node: int,
    stage: int,
    now_s: float,
) -> None:
    """Free what has left a GPU; the backward of what is back again has the next turn."""
    books.away[item * rules.stages + stage] = phase == OFFLOAD
    if phase == OFFLOAD:
        held = truth.held_bytes[view.node_class[node], item, stage]
        free_all(truth, books, rules, node, stage, held)
    else:
        queue_up(books, rules, item, node, BACKWARD, stage, now_s)
        books.taken[node * rules.stages + stage] = item


@inlined
def has_left(books: Books, rules: Rules, task: int, node: int, stage: int) -> bool:
    """Whether a task's activations are away from a GPU or on their way out."""
    gpu = node * rules.stages + stage
    return bool(books.away[task * rules.stages + stage]) or runs_on(books, rules, task, gpu)
