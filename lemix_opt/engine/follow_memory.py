"""Memory in the execution of a given order: what is held, and who waits for it."""

from __future__ import annotations

from lemix_opt.engine.exact_sum import add, rounded
from lemix_opt.engine.follow_books import (
    BLOCKED,
    END,
    LACK,
    START,
    Given,
    Progress,
    await_event,
)
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.planned import (
    COUNTED,
    FREE,
    HELD,
    LAST,
    NONE,
    Layout,
    Queues,
    item_of,
    owner,
    parts_of,
    place_of,
    row_at,
)
from lemix_opt.schedule import BACKWARD, DROPPED, FORWARD

NOISE_BYTES = 1e-3
"""Bytes by which sums of gigabytes may be off."""


@inlined
def comes_back(
    layout: Layout, queues: Queues, given: Given, run: Progress, item: int, s: int
) -> bool:
    """Whether an item frees its memory on a stage without taking a turn on the GPU."""
    task = owner(layout, item)
    part = item - task * layout.micro_batches
    if given.state[task] == DROPPED:
        return True
    free = False
    for phase in range(FORWARD, BACKWARD + 1):
        place = s if phase == FORWARD else 2 * layout.stages - 1 - s
        if run.at[item] <= place < layout.chain[item]:
            free |= queues.marks[row_at(layout, task, phase, s, part)] & FREE != 0
    return free


@inlined
def recount(layout: Layout, queues: Queues, given: Given, run: Progress, item: int, s: int) -> None:
    """Count an item that holds memory on a stage among those that give it back without a turn."""
    task = owner(layout, item)
    part = item - task * layout.micro_batches
    row = index(row_at(layout, task, FORWARD, s, part))
    if not queues.marks[row] & HELD:
        return
    counts, counted = comes_back(layout, queues, given, run, item, s), queues.marks[row] & COUNTED
    if counts != (counted != 0):
        queues.marks[row] ^= COUNTED
        gpu = index(layout.node[task] * layout.stages + s)
        run.comes_back[gpu] += 1 if counts else -1


@inlined
def free(
    layout: Layout, queues: Queues, given: Given, run: Progress, item: int, gpu: int, s: int
) -> None:
    """Take what an item holds on a GPU, if anything, off its sum."""
    task = owner(layout, item)
    part = item - task * layout.micro_batches
    row = index(row_at(layout, task, FORWARD, s, part))
    marks = queues.marks[row]
    if marks & HELD:
        kind = given.node_class[layout.node[task]]
        need = given.held_bytes[kind, task, s] / parts_of(layout, task)
        run.terms[gpu] = add(run.partials[gpu], run.terms[gpu], -need)
        run.comes_back[gpu] -= 1 if marks & COUNTED else 0
        queues.marks[row] = marks & (LAST | FREE)


@inlined
def wake(run: Progress, gpu: int, now_s: float) -> None:
    """Let the forward that waits for memory on a GPU, if any, try again."""
    number = run.blocked[gpu]
    if number != NONE:
        run.blocked[gpu] = NONE
        run.counts[BLOCKED] -= 1
        await_event(run, now_s, START, number)


@inlined
def take_memory(
    layout: Layout,
    queues: Queues,
    given: Given,
    run: Progress,
    number: int,
    rank: int,
    now_s: float,
) -> int:
    """Hold what a forward needs; or return what becomes of it: LACK to drop it, START to wait."""
    item, s = item_of(number), place_of(number)
    task = owner(layout, item)
    part = item - task * layout.micro_batches
    gpu = index(layout.node[task] * layout.stages + s)
    kind = given.node_class[layout.node[task]]
    need = given.held_bytes[kind, task, s] / parts_of(layout, task)
    room = given.room_bytes[gpu] + NOISE_BYTES
    # What fits nowhere goes first: it may free what another one waits for right now.
    if need > room:
        return LACK
    run.terms[gpu] = add(run.partials[gpu], run.terms[gpu], need)
    if rounded(run.partials[gpu], run.terms[gpu]) > room:
        run.terms[gpu] = add(run.partials[gpu], run.terms[gpu], -need)
        if run.comes_back[gpu] > 0:
            run.counts[BLOCKED] += run.blocked[gpu] == NONE
            run.blocked[gpu], run.blocked_s[gpu] = number, now_s
        elif rank == START:
            await_event(run, now_s, LACK, number)
        else:
            return LACK
        return START
    queues.marks[index(row_at(layout, task, FORWARD, s, part))] |= HELD
    recount(layout, queues, given, run, item, s)
    return END
