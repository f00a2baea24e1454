"""Simulated annealing over placements and orders: moves, and whether they are taken."""

from __future__ import annotations

from math import log
from typing import Any

from lemix_opt.engine.books import OPEN
from lemix_opt.engine.jit import inlined
from solvers.search.decode import MODE, NEVER, Board, Work
from solvers.search.snapshots import Snapshots, decode, give_up

# Uniform numbers that a step uses: kind of move, task, node or partner, portion, shift, threshold.
DRAWS = 6
PLACE, EXCHANGE, BOTH, BUNDLE, WHOLE = 0.15, 0.25, 0.35, 0.45, 0.65
"""Shares of the moves, summed up: a task changes its node; two tasks change nodes; a task changes
its node and the place of its forwards or backwards in the order; the whole chain is pulled
together at another place, on any node; forwards or backwards change their place only. What is
left over moves single operations."""
REACH = 0.1
"""How far something moves at most, in parts of the order."""


@inlined
def slide(work: Work, order: Any, where: Any, source: int, target: int) -> int:
    """Move an operation towards a position, not past its chain or loop; return where it ends."""
    stages = work.forward.shape[2]
    operation = order[source]
    task = operation // (2 * stages)
    first = operation == 2 * stages * task and work.training[task] and work.rules[MODE] != OPEN
    step = 1 if target > source else -1
    at = source
    while at != target:
        other = order[at + step]
        owner = other // (2 * stages)
        if owner == task:
            break
        if first and other == 2 * stages * owner and work.training[owner]:
            break
        order[at] = other
        where[other] = at
        at += step
    order[at] = operation
    where[operation] = at
    return at


@inlined
def copy_row(table: Any, source: int, target: int) -> None:
    """Copy one row of a table into another."""
    for k in range(table.shape[1]):
        table[target, k] = table[source, k]


@inlined
def gather(work: Work, order: Any, where: Any, portion: int, shift: int) -> None:
    """Move all forwards or all backwards of a task by so many places."""
    stages = work.forward.shape[2]
    size = order.size
    for step in range(stages):
        # The operation that goes ahead moves first.
        operation = portion + (stages - 1 - step if shift > 0 else step)
        source = where[operation]
        slide(work, order, where, source, min(max(source + shift, 0), size - 1))


@inlined
def bundle(work: Work, order: Any, where: Any, task: int, shift: int) -> None:
    """Pull a task's chain together, so many places from its first or last operation."""
    stages = work.forward.shape[2]
    base = 2 * stages * task
    last = (2 * stages if work.training[task] else stages) - 1
    if shift < 0:
        slide(work, order, where, where[base], max(where[base] + shift, 0))
        for k in range(1, last + 1):
            slide(work, order, where, where[base + k], where[base + k - 1] + 1)
        return
    edge = order.size - 1
    slide(work, order, where, where[base + last], min(where[base + last] + shift, edge))
    for k in range(last - 1, -1, -1):
        slide(work, order, where, where[base + k], where[base + k + 1] - 1)


def anneal(
    work: Work,
    board: Board,
    snapshots: Snapshots,
    allowed: Any,
    order: Any,
    place: Any,
    where: Any,
    best_order: Any,
    best_place: Any,
    draws: Any,
    costs: Any,
    heat: float,
) -> int:
    """Take one step per row of `draws`; return how many plans were decoded.

    Parameters
    ----------
    snapshots : Snapshots
        Of the present solution.
    allowed : ndarray of bool, shape (N, T)
        Where a task fits alone.
    order, place : ndarray of int, shape (2, operations) and (T,)
        The present solution in the first row, changed in place; the second one is scratch.
        `best_order` and `best_place` hold the best solution.
    where : ndarray of int, shape (2, 2S·T)
        Place of every operation in the order, and scratch.
    draws : ndarray, shape (steps, DRAWS)
        Uniform numbers in [0, 1).
    costs : ndarray, shape (2,)
        Cost of the present and of the best solution, in ticks.
    heat : float
        Temperature in ticks.
    """
    nodes, tasks = allowed.shape
    size, chain = order.shape[1], 2 * work.forward.shape[2]
    reach = max(3, int(REACH * size))
    decoded = 0
    for step in range(draws.shape[0]):
        kind = draws[step, 0]
        first, second, old, other = NEVER, NEVER, 0, 0
        source = int(draws[step, 3] * size)
        shift = int(draws[step, 4] * (2 * reach + 1)) - reach
        if kind >= EXCHANGE and shift == 0:
            continue
        if kind < PLACE or EXCHANGE <= kind < BUNDLE:
            first = int(draws[step, 1] * tasks) if kind < PLACE else order[0, source] // chain
            old, new = place[first], int(draws[step, 2] * nodes)
            if (new == old and kind < BOTH) or not allowed[new, first]:
                continue
            place[first] = new
        elif kind < EXCHANGE:
            first, second = int(draws[step, 1] * tasks), int(draws[step, 2] * tasks)
            old, other = place[first], place[second]
            if old == other or not allowed[other, first] or not allowed[old, second]:
                continue
            place[first], place[second] = other, old
        copy_row(order, 0, 1)
        copy_row(where, 0, 1)
        changed = size
        if first >= 0:
            changed = min(changed, where[0, chain * first])
        if second >= 0:
            changed = min(changed, where[0, chain * second])
        if kind >= WHOLE:
            target = min(max(source + shift, 0), size - 1)
            end = slide(work, order[1], where[1], source, target)
            if end == source:
                continue
            changed = min(source, end)
        elif BOTH <= kind < BUNDLE:
            bundle(work, order[1], where[1], first, shift)
            changed = min(changed, where[1, chain * first])
        elif kind >= EXCHANGE:
            portion = order[0, source] - order[0, source] % (chain // 2)
            gather(work, order[1], where[1], portion, shift)
            changed = min(changed, where[0, portion], where[1, portion])
        limit = costs[0] - heat * log(1 - draws[step, 5])
        cost = decode(work, board, snapshots, order[1], place, changed, limit)
        decoded += 1
        if cost <= limit:
            costs[0] = cost
            give_up(snapshots, changed, size)
            copy_row(order, 1, 0)
            copy_row(where, 1, 0)
            if cost < costs[1]:
                costs[1] = cost
                for k in range(size):
                    best_order[k] = order[0, k]
                for k in range(tasks):
                    best_place[k] = place[k]
            continue
        if first >= 0:
            place[first] = old
        if second >= 0:
            place[second] = other
    return decoded
