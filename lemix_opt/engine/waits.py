"""Waiting for memory by the clock: what is asked of a GPU's memory, when, and for how long."""

from __future__ import annotations

from math import inf, isnan, nan
from typing import Any

from lemix_opt.engine.books import NONE, Books, Rules, Truth
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.plain import offloads_of, threads_of, threshold_of
from lemix_opt.engine.queues import RANK_LOOK, operation_key, push, remove
from lemix_opt.engine.view import View
from lemix_opt.schedule import FORWARD

SLACK_BYTES = 1e-3
"""Bytes by which sums of gigabytes may be off."""


@inlined
def memory_allows(view: View, truth: Truth, books: Books, rules: Rules, item: int) -> bool:
    """Whether an operation gets what it asks for: room, or use below the threshold."""
    node = books.node[item]
    stage = books.place[item] % rules.stages
    asked = books.used_bytes[node * rules.stages + stage]
    if not threshold_of(rules):
        asked += truth.held_bytes[view.node_class[node], item, stage]
    return bool(asked <= view.capacity_bytes[node, stage] + SLACK_BYTES)


@inlined
def fits_gpu(view: View, truth: Truth, books: Books, rules: Rules, item: int) -> bool:
    """Whether a forward that the threshold lets pass fits into the whole GPU."""
    node = books.node[item]
    stage = books.place[item]
    held = truth.held_bytes[view.node_class[node], item, stage]
    used = books.used_bytes[node * rules.stages + stage]
    return bool(used + held <= view.memory_bytes[node, stage] + SLACK_BYTES)


@inlined
def begin_wait(books: Books, rules: Rules, item: int, now_s: float) -> None:
    """Let an operation wait for memory."""
    deadline_s = now_s + rules.max_wait_s
    books.deadline_s[item] = deadline_s
    books.look_s[item] = min(now_s + rules.poll_s, deadline_s) if rules.poll_s > 0 else deadline_s
    books.fresh[0] += 1
    books.fresh[books.fresh[0]] = item


@inlined
def may_go(books: Books, rules: Rules, item: int, fits: bool, now_s: float) -> bool:
    """Whether a forward that a GPU looks at may take its memory; it begins to wait if not.

    Where looks have their own times, one that waits has to wait for them.
    """
    if threshold_of(rules):
        return True
    waits = not isnan(books.deadline_s[item])
    if waits and rules.poll_s > 0:
        return False
    if fits:
        books.deadline_s[item] = nan
    elif not waits:
        begin_wait(books, rules, item, now_s)
    return fits


@inlined
def push_looks(books: Books, times: Any, keys: Any, size: int) -> int:
    """Plan the looks of waits that have begun; an item has one look in the heap at a time."""
    for at in range(1, books.fresh[0] + 1):
        item = books.fresh[at]
        if isnan(books.alarm_s[item]) and books.look_s[item] < inf:
            size = push_look(books, times, keys, size, item)
    books.fresh[0] = 0
    return size


@inlined
def push_look(books: Books, times: Any, keys: Any, size: int, item: int) -> int:
    """Plan an item's next look."""
    books.alarm_s[item] = books.look_s[item]
    return push(times, keys, size, books.look_s[item], operation_key(RANK_LOOK, item, 0, 0))


@inlined
def fail(books: Books, rules: Rules, item: int) -> None:
    """Take an operation that does not get its memory out of its queue, to be dropped."""
    place = int(books.place[item])
    phase, stage = place // rules.stages, place % rules.stages
    gpu = books.node[item] * rules.stages + stage
    remove(books, phase, gpu, item)
    slot = gpu if phase == FORWARD or not threads_of(rules) else gpu + rules.nodes * rules.stages
    if books.taken[slot] == item:
        books.taken[slot] = NONE
    books.deadline_s[item] = nan
    note_failure(books, item)


@inlined
def note_failure(books: Books, item: int) -> None:
    """Put an item on the list of those to be dropped."""
    books.failed[0] += 1
    books.failed[books.failed[0]] = item


@inlined
def look(
    view: View,
    truth: Truth,
    books: Books,
    rules: Rules,
    times: Any,
    keys: Any,
    size: int,
    item: int,
    now_s: float,
) -> int:
    """Look whether a waiting operation gets its memory: its wait ends, goes on, or has failed."""
    books.alarm_s[item] = nan
    if isnan(books.deadline_s[item]):
        return size
    if now_s < books.look_s[item]:
        return push_look(books, times, keys, size, item)
    if memory_allows(view, truth, books, rules, item):
        books.deadline_s[item] = nan
    elif now_s >= books.deadline_s[item]:
        if offloads_of(rules):
            books.look_s[item] = inf
            books.overdue[books.node[item] * rules.stages + books.place[item] % rules.stages] = 1
        else:
            fail(books, rules, item)
    else:
        books.look_s[item] = min(now_s + rules.poll_s, books.deadline_s[item])
        size = push_look(books, times, keys, size, item)
    return size
