"""Queues of items waiting for a GPU, as doubly linked lists, and the heap of coming events."""

from __future__ import annotations

from math import inf, nan
from typing import Any

from lemix_opt.engine.books import NONE, ORDER_TASK_ID, Books, Rules
from lemix_opt.engine.jit import index, inlined

# What falls on one moment, after the ends: arrivals after a hop, first decisions, repeated ones,
# looks for memory.
RANK_ARRIVE, RANK_DECIDE, RANK_RETRY, RANK_LOOK = range(4)
# A key holds rank, item (or number of the retry and task), phase and stage, so that events of one
# moment come in that order.
RANK_SHIFT, ITEM_SHIFT, PHASE_SHIFT = 60, 17, 14
SERIAL_SHIFT = 30
LARGEST = 1 << SERIAL_SHIFT


@inlined
def insert(books: Books, phase: int, gpu: int, item: int, by_id: bool) -> None:
    """Put an item into a queue ordered by ready time, then item; or by item alone."""
    after, before, ready = books.after, books.before, books.ready_s
    last = books.tail[phase, gpu]
    if by_id:
        # From both ends at once: items that come late have small ids and belong near the head.
        ahead = books.head[phase, gpu]
        while last != NONE and last > item:
            if ahead > item:
                last = before[ahead]
                break
            ahead = after[ahead]
            last = before[last]
    else:
        while last != NONE:
            last = index(last)
            if ready[last] < ready[item] or (ready[last] == ready[item] and last < item):
                break
            last = before[last]
    before[item] = last
    if last == NONE:
        follower = books.head[phase, gpu]
        books.head[phase, gpu] = item
    else:
        last = index(last)
        follower = after[last]
        after[last] = item
    after[item] = follower
    if follower == NONE:
        books.tail[phase, gpu] = item
    else:
        before[index(follower)] = item


@inlined
def remove(books: Books, phase: int, gpu: int, item: int) -> None:
    """Take an item out of the queue it is in."""
    ahead, follower = books.before[item], books.after[item]
    if ahead == NONE:
        books.head[phase, gpu] = follower
    else:
        books.after[index(ahead)] = follower
    if follower == NONE:
        books.tail[phase, gpu] = ahead
    else:
        books.before[index(follower)] = ahead


@inlined
def queue_up(
    books: Books, rules: Rules, item: int, node: int, phase: int, stage: int, now_s: float
) -> None:
    """Let an item wait for its next GPU."""
    books.place[item] = phase * rules.stages + stage
    books.begun_s[item] = nan
    books.ready_s[item] = now_s
    gpu = index(node * rules.stages + stage)
    insert(books, phase, gpu, item, rules.order == ORDER_TASK_ID)
    books.wants[gpu] = books.running[gpu] == 0


@inlined
def operation_key(rank: int, item: int, phase: int, stage: int) -> int:
    """Return the heap key of an end or an arrival."""
    return (rank << RANK_SHIFT) | (int(item) << ITEM_SHIFT) | (phase << PHASE_SHIFT) | stage


@inlined
def set_end(books: Books, gpu: int, end_s: float, key: int) -> None:
    """Note when what runs on a GPU ends (infinity: nothing runs), and find the next end anew.

    A winner tree over GPUs: `first_end[1]` is a GPU whose operation ends next. Its comparisons
    need no jumps, unlike those of a heap.
    """
    ends, tree = books.gpu_end_s, books.first_end
    ends[gpu] = end_s
    books.gpu_key[gpu] = key
    at = gpu + ends.size
    winner = gpu
    while at > 1:
        at = index(at)
        # What won so far stays in registers; only its rival is read.
        rival = index(tree[at ^ 1])
        rival_s = ends[rival]
        winner = rival if rival_s < end_s else winner
        end_s = rival_s if rival_s < end_s else end_s
        at >>= 1
        tree[at] = winner


@inlined
def take_ends(books: Books, now_s: float) -> int:
    """List the GPUs whose operations end now, by task, phase and stage; return their number."""
    count = 0
    while books.gpu_end_s[books.first_end[1]] == now_s:
        gpu = index(books.first_end[1])
        set_end(books, gpu, inf, books.gpu_key[gpu])
        at = count
        while at > 0 and books.gpu_key[books.ending[at - 1]] > books.gpu_key[gpu]:
            books.ending[at] = books.ending[at - 1]
            at -= 1
        books.ending[at] = gpu
        count += 1
    return count


@inlined
def retry_key(serial: int, task: int) -> int:
    """Return the heap key of a repeated decision."""
    return (RANK_RETRY << RANK_SHIFT) | (serial << SERIAL_SHIFT) | int(task)


@inlined
def push(times: Any, keys: Any, size: int, time_s: float, key: int) -> int:
    """Add an event to a binary heap with room for it; return the new size."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if times[parent] < time_s or (times[parent] == time_s and keys[parent] <= key):
            break
        times[at] = times[parent]
        keys[at] = keys[parent]
        at = parent
    times[at] = time_s
    keys[at] = key
    return size + 1


@inlined
def pop(times: Any, keys: Any, size: int) -> int:
    """Remove the first event; return the new size."""
    size -= 1
    time_s, key = times[size], keys[size]
    at, child = 0, 1
    while child < size:
        right = child + 1
        if right < size and (
            times[right] < times[child]
            or (times[right] == times[child] and keys[right] < keys[child])
        ):
            child = right
        if time_s < times[child] or (time_s == times[child] and key <= keys[child]):
            break
        times[at] = times[child]
        keys[at] = keys[child]
        at = child
        child = 2 * at + 1
    times[at] = time_s
    keys[at] = key
    return size
