"""Continuous batching: who joins an iteration, what it takes, and who leaves when it ends."""

from __future__ import annotations

from math import inf
from typing import Any

from lemix_opt.engine.batches import (
    CONTEXT,
    COUNTS,
    DECODES,
    KV,
    PAIRS,
    PREFILLS,
    TOKENS,
    UNLIMITED,
    Batches,
)
from lemix_opt.engine.books import NONE, Books, Rules, Truth
from lemix_opt.engine.codes import SEES_END
from lemix_opt.engine.iteration_seconds import set_seconds
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.plain import parts_of
from lemix_opt.engine.queues import queue_up
from lemix_opt.engine.view import View
from lemix_opt.engine.waits import SLACK_BYTES
from lemix_opt.schedule import DONE, FORWARD


@inlined
def stage_too_small(
    view: View, truth: Truth, batches: Batches, rules: Rules, task: int, node: int
) -> int:
    """Return the first stage on which a request's whole KV cache cannot lie, or NONE."""
    tokens = view.prompt_tokens[task] + batches.output[task] - 1
    kind = view.node_class[node]
    for s in range(rules.stages):
        room_bytes = view.capacity_bytes[node, s] - truth.resident_bytes[node, s]
        if tokens * batches.kv_bytes[kind, s] > room_bytes + SLACK_BYTES:
            return s
    return NONE


@inlined
def fits(view: View, books: Books, batches: Batches, rules: Rules, node: int, tokens: int) -> bool:
    """Whether a node has room for the KV of some more tokens."""
    kind = view.node_class[node]
    for s in range(rules.stages):
        used = books.used_bytes[node * rules.stages + s]
        more = tokens * batches.kv_bytes[kind, s]
        if used + more > view.capacity_bytes[node, s] + SLACK_BYTES:
            return False
    return True


@inlined
def hold(
    view: View, truth: Truth, books: Books, batches: Batches, rules: Rules, node: int, tokens: int
) -> None:
    """Take the KV memory of some tokens on every stage, or give it back."""
    kind = view.node_class[node]
    before = batches.held[node]
    held = before + tokens
    batches.held[node] = held
    change = int(held > 0) - int(before > 0)
    for s in range(rules.stages):
        gpu = node * rules.stages + s
        books.holders[gpu] += change
        if books.holders[gpu] == 0:
            # Sums of floats drift; an empty GPU holds exactly what is resident.
            books.used_bytes[gpu] = truth.resident_bytes[node, s]
        else:
            books.used_bytes[gpu] += tokens * batches.kv_bytes[kind, s]


@inlined
def join(batches: Batches, task: int, node: int) -> None:
    """Let a request wait at its node."""
    batches.came[node] += 1
    batches.ticket[task] = batches.came[node]
    last = batches.tail[node]
    batches.before[task] = last
    batches.after[task] = NONE
    if last == NONE:
        batches.head[node] = task
    else:
        batches.after[last] = task
    batches.tail[node] = task


@inlined
def part(batches: Batches, task: int, node: int) -> None:
    """Take a request that runs out of its node's list."""
    ahead, follower = batches.before[task], batches.after[task]
    if ahead == NONE:
        batches.head[node] = follower
    else:
        batches.after[ahead] = follower
    if follower == NONE:
        batches.tail[node] = ahead
    else:
        batches.before[follower] = ahead
    if batches.youngest[node] == task:
        batches.youngest[node] = ahead
    batches.running[node] -= 1


@inlined
def into_bucket(batches: Batches, task: int, node: int, finish: int) -> None:
    """Note in which iteration a request makes its last token."""
    batches.finish[task] = finish
    slot = finish & (batches.bucket_head.shape[1] - 1)
    last = batches.bucket_tail[node, slot]
    batches.mate_before[task] = last
    batches.mate_after[task] = NONE
    if last == NONE:
        batches.bucket_head[node, slot] = task
    else:
        batches.mate_after[last] = task
    batches.bucket_tail[node, slot] = task


@inlined
def out_of_bucket(batches: Batches, task: int, node: int) -> None:
    """Forget when a request makes its last token."""
    slot = batches.finish[task] & (batches.bucket_head.shape[1] - 1)
    ahead, follower = batches.mate_before[task], batches.mate_after[task]
    if ahead == NONE:
        batches.bucket_head[node, slot] = follower
    else:
        batches.mate_after[ahead] = follower
    if follower == NONE:
        batches.bucket_tail[node, slot] = ahead
    else:
        batches.mate_before[follower] = ahead
    batches.finish[task] = NONE


@inlined
def preempt(
    view: View, truth: Truth, books: Books, batches: Batches, rules: Rules, node: int
) -> None:
    """Send the youngest request back to the head of the queue, without its memory."""
    task = batches.youngest[node]
    if batches.finish[task] == NONE:
        tokens = view.prompt_tokens[task] + batches.made[task]
        kept = batches.partial[node]
        batches.partial[node] = 0
    else:
        batches.made[task] = batches.output[task] - (batches.finish[task] - batches.number[node])
        out_of_bucket(batches, task, node)
        context = view.prompt_tokens[task] + batches.made[task]
        batches.decoding[node] -= 1
        batches.context[node] -= context
        batches.last_s[task] = books.end_s[books.row[rules.tasks + node] + rules.stages - 1]
        # Its latest token has not been processed yet.
        tokens = context - 1
        kept = tokens
    if batches.keep:
        batches.kept[task] = kept
        free = room_tokens(view, truth, batches, rules, node) - batches.held[node]
        batches.safe[task] = batches.taken[node] + free + tokens - kept
    hold(view, truth, books, batches, rules, node, -tokens)
    batches.preemptions[task] += 1
    batches.youngest[node] = batches.before[task]
    batches.running[node] -= 1


@inlined
def room_tokens(view: View, truth: Truth, batches: Batches, rules: Rules, node: int) -> int:
    """Return how many tokens' KV an empty node has room for."""
    kind, room = view.node_class[node], UNLIMITED
    for s in range(rules.stages):
        each = batches.kv_bytes[kind, s]
        if each > 0:
            room_bytes = view.capacity_bytes[node, s] - truth.resident_bytes[node, s]
            room = min(room, int((room_bytes + SLACK_BYTES) / each))
    return room


@inlined
def still_there(batches: Batches, task: int, node: int, target: int) -> int:
    """Return how many first tokens of a waiting request need no second prefill."""
    lost = max(batches.taken[node] - batches.safe[task], 0)
    # The last one has to be processed, as the next token comes of it.
    return int(max(min(batches.kept[task] - lost, target - 1), 0))


@inlined
def begin_iteration(
    view: View, books: Books, batches: Batches, rules: Rules, node: int, now_s: float
) -> None:
    """Let the node's next iteration wait for the first stage."""
    set_seconds(batches, rules, view.node_class[node], node)
    batches.under_way[node] = 1
    books.left[rules.tasks + node] = rules.stages
    item = (rules.tasks + node) * parts_of(rules)
    queue_up(books, rules, item, node, FORWARD, 0, now_s)


@inlined
def let_leave(
    view: View, truth: Truth, books: Books, batches: Batches, rules: Rules, node: int
) -> None:
    """Free the memory of requests that were done when an iteration had already been formed."""
    if batches.leavers[node]:
        hold(view, truth, books, batches, rules, node, -batches.leaving[node])
        batches.leavers[node] = 0
        batches.leaving[node] = 0


@inlined
def form(
    view: View,
    truth: Truth,
    books: Books,
    batches: Batches,
    rules: Rules,
    node: int,
    now_s: float,
) -> None:
    """Form a node's next iteration if none is under way and there is something to do.

    Formed ahead, it is made of what was known when the one that has just ended was formed, unless
    that is nothing.
    """
    if batches.under_way[node]:
        return
    gate = batches.seen[node] if batches.ahead else UNLIMITED
    batches.seen[node] = batches.came[node]
    if batches.head[node] == NONE:
        let_leave(view, truth, books, batches, rules, node)
        return
    while batches.running[node] and not fits(
        view, books, batches, rules, node, batches.decoding[node]
    ):
        preempt(view, truth, books, batches, rules, node)
    decodes = batches.decoding[node]
    if decodes:
        hold(view, truth, books, batches, rules, node, decodes)
        batches.taken[node] += decodes
    budget = batches.chunk - decodes
    prefills, tokens, pairs = 0, 0, 0
    fresh = NONE
    if batches.partial[node]:
        fresh = int(batches.youngest[node])
        done = batches.partial[node]
        target = view.prompt_tokens[fresh] + batches.made[fresh]
        new = min(target - done, budget)
        prefills, tokens, pairs = 1, new, new * (done + new)
        budget -= new
        batches.partial[node] = done + new if done + new < target else 0
    opened = not batches.ahead
    while True:
        youngest = batches.youngest[node]
        task = int(batches.head[node] if youngest == NONE else batches.after[youngest])
        target = 0 if task == NONE else view.prompt_tokens[task] + batches.made[task]
        if (
            task == NONE
            or budget <= 0
            or batches.running[node] + batches.leavers[node] >= batches.cap
            or batches.ticket[task] > gate
            or not fits(view, books, batches, rules, node, target)
        ):
            if opened or prefills or decodes:
                break
            opened, gate = True, UNLIMITED
            let_leave(view, truth, books, batches, rules, node)
            continue
        hold(view, truth, books, batches, rules, node, target)
        batches.youngest[node] = task
        batches.running[node] += 1
        done = still_there(batches, task, node, target) if batches.keep else 0
        batches.taken[node] += target - done
        new = min(target - done, budget)
        prefills += 1
        tokens += new
        pairs += new * (done + new)
        budget -= new
        if fresh == NONE:
            fresh = task
        if done + new < target:
            batches.partial[node] = done + new
    let_leave(view, truth, books, batches, rules, node)
    if prefills == 0 and decodes == 0:
        return
    batches.fresh[node] = fresh
    counts = batches.counts
    counts[node, PREFILLS] = prefills
    counts[node, TOKENS] = tokens
    counts[node, PAIRS] = pairs
    counts[node, DECODES] = decodes
    counts[node, CONTEXT] = batches.context[node]
    counts[node, KV] = batches.held[node]
    begin_iteration(view, books, batches, rules, node, now_s)


@inlined
def write_row(books: Books, batches: Batches, rules: Rules, node: int) -> None:
    """Add the iteration that has just ended to the table."""
    row = batches.filled[0]
    batches.filled[0] = row + 1
    batches.table[0, row] = node
    for k in range(COUNTS):
        batches.table[1 + k, row] = batches.counts[node, k]
    first = books.row[rules.tasks + node]
    for s in range(rules.stages):
        batches.table_start_s[row, s] = books.start_s[first + s]
        batches.table_end_s[row, s] = books.end_s[first + s]


@inlined
def say_done(
    shown: View,
    books: Books,
    rules: Rules,
    observe: Any,
    state: Any,
    task: int,
    node: int,
    now_s: float,
) -> None:
    """Note that a request is done, and tell the policy as of the forward of any task."""
    books.end_state[task] = DONE
    if rules.watched >> SEES_END & 1:
        for s in range(rules.stages):
            used = books.used_bytes[node * rules.stages + s]
            observe(SEES_END, now_s, task, node, FORWARD, s, used, shown, state)


@inlined
def close(
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
    """End a node's iteration; return how many requests are done."""
    write_row(books, batches, rules, node)
    batches.under_way[node] = 0
    number = batches.number[node] + 1
    batches.number[node] = number
    batches.context[node] += batches.decoding[node]
    done = 0
    slot = number & (batches.bucket_head.shape[1] - 1)
    task = int(batches.bucket_head[node, slot])
    batches.bucket_head[node, slot] = NONE
    batches.bucket_tail[node, slot] = NONE
    start_s = books.start_s[books.row[rules.tasks + node]]
    youngest = int(batches.youngest[node])
    # Those that have decoded their last token, then those whose prompt was in this iteration.
    decoded = task != NONE
    if not decoded:
        task = int(batches.fresh[node])
    while task != NONE:
        if decoded:
            follower = int(batches.mate_after[task])
            batches.finish[task] = NONE
            batches.decoding[node] -= 1
            batches.context[node] -= view.prompt_tokens[task] + batches.output[task]
            made = batches.output[task]
        else:
            follower = NONE if task == youngest else int(batches.after[task])
            if batches.start_s[task] == inf:
                batches.start_s[task] = start_s
            if task == youngest and batches.partial[node]:
                break
            made = batches.made[task] + 1
            if made == 1:
                batches.first_s[task] = now_s
        batches.made[task] = made
        batches.last_s[task] = now_s
        if made == batches.output[task]:
            part(batches, task, node)
            tokens = view.prompt_tokens[task] + made - 1
            if batches.ahead:
                batches.leavers[node] += 1
                batches.leaving[node] += tokens
            else:
                hold(view, truth, books, batches, rules, node, -tokens)
            say_done(shown, books, rules, observe, state, task, node, now_s)
            done += 1
        else:
            into_bucket(batches, task, node, number + batches.output[task] - made)
            batches.decoding[node] += 1
            batches.context[node] += view.prompt_tokens[task] + made
        if decoded and follower == NONE:
            decoded = False
            follower = int(batches.fresh[node])
        task = follower
    return done
