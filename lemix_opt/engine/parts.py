"""Micro-batches of one training task on one GPU: how many are under way and what they hold."""

from __future__ import annotations

from lemix_opt.engine.books import ONE_F_ONE_B, Books, Rules, Truth
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.plain import parts_of
from lemix_opt.engine.queues import ITEM_SHIFT
from lemix_opt.engine.view import View
from lemix_opt.schedule import BACKWARD


@inlined
def task_of(rules: Rules, item: int) -> int:
    """Return the task an item is a micro-batch of."""
    return item if parts_of(rules) == 1 else item // parts_of(rules)


@inlined
def runs_on(books: Books, rules: Rules, task: int, gpu: int) -> bool:
    """Whether a GPU runs an operation of a task."""
    item = (books.gpu_key[gpu] >> ITEM_SHIFT) & 0xFFFFFFFF
    return bool(books.running[gpu]) and bool(task_of(rules, item) == task)


@inlined
def shares_on(rules: Rules, stage: int) -> int:
    """Return how many micro-batches of a task a stage holds at most; see `Instance.shares`."""
    if rules.pipeline == ONE_F_ONE_B:
        return min(parts_of(rules), rules.stages - stage)
    return parts_of(rules)


@inlined
def may_follow(books: Books, rules: Rules, at: int, stage: int) -> bool:
    """Whether a task that has begun on a stage may start another forward; `at` is their counter.

    Its memory is reserved; only 1F1B limits how many are between forward and backward.
    """
    under_way = books.begun_parts[at] - books.ended_parts[at]
    return rules.pipeline != ONE_F_ONE_B or under_way < shares_on(rules, stage)


@inlined
def free_all(truth: Truth, books: Books, rules: Rules, node: int, stage: int, held: float) -> None:
    """Give back `held` bytes, the last ones a task holds on a GPU."""
    gpu = index(node * rules.stages + stage)
    books.holders[gpu] -= 1
    if books.holders[gpu] == 0:
        # Sums of floats drift; an empty GPU holds exactly what is resident.
        books.used_bytes[gpu] = truth.resident_bytes[node, stage]
    else:
        books.used_bytes[gpu] -= held


@inlined
def end_part(
    view: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    task: int,
    node: int,
    phase: int,
    stage: int,
) -> bool:
    """Count the end of a micro-batch's operation; return whether it was the task's last there.

    A backward frees a share as soon as fewer micro-batches are left than shares are reserved.
    """
    parts = parts_of(rules)
    at = task * rules.stages + stage
    if phase != BACKWARD:
        return bool(books.begun_parts[at] == parts)
    books.ended_parts[at] += 1
    left, shares = parts - books.ended_parts[at], shares_on(rules, stage)
    if left < shares:
        share = truth.held_bytes[view.node_class[node], task, stage] / shares
        if left == 0:
            free_all(truth, books, rules, node, stage, share)
        else:
            books.used_bytes[node * rules.stages + stage] -= share
    return bool(left == 0)
