"""Batching as the published LeMix program does it: the first stage's thread gathers requests.

The thread takes a request from its queue, waits until no iteration is under way, takes more
requests while they come, and runs a prefill of the whole batch. Nothing but a request starts an
iteration. Backwards run in another thread, so that they are never held up.
"""

from __future__ import annotations

from math import inf
from typing import Any

from lemix_opt.engine.batches import PAIRS, PREFILLS, REFERENCE, TOKENS, Batches
from lemix_opt.engine.books import NONE, ORDER_TASK_ID, Books, Rules, Truth
from lemix_opt.engine.iterations import (
    begin_iteration,
    close,
    join,
    say_done,
    stage_too_small,
    write_row,
)
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.parts import task_of
from lemix_opt.engine.pick import SEARCH, next_forward
from lemix_opt.engine.plain import generation_of, parts_of
from lemix_opt.engine.queues import (
    RANK_ARRIVE,
    insert,
    operation_key,
    push,
    queue_up,
    remove,
)
from lemix_opt.engine.view import View
from lemix_opt.schedule import FORWARD, UPDATE

# What the first stage's thread does: looks for work, holds a request until the iteration under
# way has ended, waits for more requests, or has an iteration that waits for its GPU.
FREE, HOLDS, GATHERS, FORMED = range(4)


@inlined
def add(batches: Batches, node: int, task: int) -> None:
    """Put a request into the batch."""
    batches.member[node, batches.running[node]] = task
    batches.running[node] += 1


@inlined
def longest(view: View, batches: Batches, node: int) -> int:
    """Return the padded length of the batch in tokens."""
    most = 0
    for k in range(batches.running[node]):
        task = batches.member[node, k]
        most = max(most, view.prompt_tokens[task] + batches.made[task])
    return most


@inlined
def fill(
    view: View, truth: Truth, books: Books, batches: Batches, rules: Rules, node: int, now_s: float
) -> bool:
    """Take what requests there are; return whether the batch is to run now."""
    gpu = node * rules.stages
    while batches.running[node] < batches.cap:
        item = next_forward(view, truth, books, rules, node, 0, now_s)
        if item == NONE:
            if batches.deadline_s[node] == inf:
                batches.deadline_s[node] = now_s + batches.wait_s
                batches.alarm_s[node] = batches.deadline_s[node]
            return now_s >= batches.deadline_s[node]
        task = task_of(rules, item)
        if view.training[task]:
            return True
        remove(books, FORWARD, gpu, item)
        add(batches, node, task)
        batches.deadline_s[node] = inf
    return True


@inlined
def gather(
    view: View, truth: Truth, books: Books, batches: Batches, rules: Rules, node: int, now_s: float
) -> int:
    """Let the first stage's thread go on; return which forward it may start, as `pick` takes it."""
    if batches.stance[node] == FREE:
        return SEARCH
    if batches.stance[node] == HOLDS and not batches.under_way[node]:
        task = int(batches.pending[node])
        batches.stance[node] = GATHERS
        batches.deadline_s[node] = inf
        if batches.running[node] < batches.cap:
            add(batches, node, task)
        else:
            item = task * parts_of(rules)
            insert(books, FORWARD, node * rules.stages, item, rules.order == ORDER_TASK_ID)
    if batches.stance[node] == GATHERS and fill(view, truth, books, batches, rules, node, now_s):
        batches.stance[node] = FORMED
        rows, length = batches.running[node], longest(view, batches, node)
        batches.counts[node, PREFILLS] = rows
        batches.counts[node, TOKENS] = rows * length
        batches.counts[node, PAIRS] = rows * length * length
        begin_iteration(view, books, batches, rules, node, now_s)
    if batches.stance[node] == FORMED:
        return (rules.tasks + node) * parts_of(rules)
    return NONE


@inlined
def takes_request(
    view: View, books: Books, batches: Batches, rules: Rules, node: int, chosen: int
) -> bool:
    """Whether what the first stage's thread has chosen is a request; it holds it then."""
    if chosen == NONE or chosen & 1 != FORWARD:
        return False
    item = chosen >> 1
    task = task_of(rules, item)
    if batches.stance[node] == FREE and not view.training[task]:
        remove(books, FORWARD, node * rules.stages, item)
        batches.pending[node] = task
        batches.stance[node] = HOLDS
        return True
    batches.stance[node] = FREE
    return False


@inlined
def close_reference(
    view: View,
    shown: View,
    books: Books,
    batches: Batches,
    rules: Rules,
    observe: Any,
    state: Any,
    node: int,
    now_s: float,
) -> int:
    """End a node's iteration; return how many requests are done."""
    write_row(books, batches, rules, node)
    batches.under_way[node] = 0
    start_s = books.start_s[books.row[rules.tasks + node]]
    cleared = batches.counts[node, TOKENS] >= batches.clear * batches.counts[node, PREFILLS]
    rows, kept = batches.running[node], 0
    for k in range(rows):
        task = int(batches.member[node, k])
        made = batches.made[task] + 1
        batches.made[task] = made
        batches.last_s[task] = now_s
        if made == 1:
            batches.start_s[task] = start_s
            batches.first_s[task] = now_s
        if cleared or made >= max(batches.output[task], batches.least):
            say_done(shown, books, rules, observe, state, task, node, now_s)
        else:
            batches.member[node, kept] = task
            kept += 1
    batches.running[node] = kept
    return int(rows - kept)


@inlined
def end_iteration(
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
) -> int:
    """End a node's iteration by the rule in force; return how many requests are done."""
    if generation_of(rules) == REFERENCE:
        return close_reference(view, shown, books, batches, rules, observe, state, node, now_s)
    return close(view, shown, truth, books, batches, rules, observe, state, node, now_s)


@inlined
def push_alarm(
    books: Books, batches: Batches, rules: Rules, times: Any, keys: Any, size: int, node: int
) -> int:
    """Have a node woken when it has waited long enough for a request; return the heap's size."""
    if batches.alarm_s[node] == inf:
        return size
    alarm_s = batches.alarm_s[node]
    batches.alarm_s[node] = inf
    books.hops[node] += 1
    item = (rules.tasks + node) * parts_of(rules)
    return push(times, keys, size, alarm_s, operation_key(RANK_ARRIVE, item, UPDATE, 0))


@inlined
def arrive(
    view: View,
    truth: Truth,
    books: Books,
    batches: Batches,
    rules: Rules,
    item: int,
    phase: int,
    stage: int,
    now_s: float,
) -> int:
    """Let a request, an iteration or an alarm arrive at its node.

    Returns
    -------
    int
        A stage too small for the request's KV cache, else NONE.
    """
    task = task_of(rules, item)
    node = books.node[task]
    # An alarm has done enough when its node is looked at.
    if phase == UPDATE:
        return NONE
    if task >= rules.tasks or generation_of(rules) == REFERENCE:
        queue_up(books, rules, item, node, phase, stage, now_s)
        return NONE
    lacks = stage_too_small(view, truth, batches, rules, task, node)
    if lacks == NONE:
        join(batches, task, node)
    return lacks
