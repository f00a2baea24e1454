"""Beam search for plans to begin with: task after task, the best few partial schedules are kept."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from lemix_opt.checks import BoolArray, IntArray
from lemix_opt.engine.books import OPEN, SYNC
from lemix_opt.engine.jit import called, inlined
from solvers.search.decode import MODE, NEVER, Board, Work, board_of, clear, put_down
from solvers.search.plan import Plan, whole_tasks
from solvers.search.snapshots import boards_of, copy_board, taken

WIDTH = 16
"""Partial schedules that are kept, fewer of them where tasks are many."""
EFFORT = 2.5e7
"""Nodes × tasks² × width of one beam search at most, which takes about half a second."""


def grown(work: Work, allowed: BoolArray, sequence: IntArray) -> Plan | None:
    """Put down whole tasks in a sequence, on the nodes that a beam search finds.

    Parameters
    ----------
    allowed : ndarray of bool, shape (N, T)
        Where a task fits alone.
    sequence : ndarray of int, shape (T,)
        All tasks; in a closed loop the training tasks by their index.

    Returns
    -------
    Plan or None
        None where some task found no place, or tasks are too many to look at this way.
    """
    nodes, tasks, stages = work.forward.shape
    width = int(min(WIDTH, EFFORT / max(nodes * tasks * tasks, 1)))
    if width < 1:
        return None
    order = whole_tasks(work.training == 1, stages, sequence)
    place = np.zeros((2 * width, tasks), dtype=np.int64)
    arguments = (
        *(work, board_of(work), boards_of(work, 2 * width), np.ascontiguousarray(allowed)),
        *(sequence, order, place, np.zeros((width, nodes)), np.zeros(width)),
    )
    if not called(grow, *arguments):
        return None
    return Plan(order, place[0].copy())


@inlined
def outlook(work: Work, board: Board, sequence: Any, place: Any, at: int) -> float:
    """Return what the responses cost if training behind a position waits for the loop only."""
    cost = board.cost[0]
    latest, mode = board.latest[0], int(work.rules[MODE])
    if latest == NEVER or mode == OPEN:
        return float(cost)
    stages, node = work.forward.shape[2], place[latest]
    event = board.start[latest, 0] + work.forward[node, latest, 0]
    if mode == SYNC:
        event = board.start[latest, stages] + work.backward[node, latest, 0]
    for k in range(at + 1, sequence.size):
        task = sequence[k]
        if not work.training[task]:
            continue
        start = max(event, work.release[task])
        cost += work.weight[task] * (start - work.release[task])
        least = work.forward[0, task, 0]
        for n in range(1, work.forward.shape[0]):
            least = min(least, work.forward[n, task, 0])
        event = start + least
    return float(cost)


def grow(
    work: Work,
    board: Board,
    boards: Board,
    allowed: Any,
    sequence: Any,
    order: Any,
    place: Any,
    scores: Any,
    kept: Any,
) -> bool:
    """Fill row 0 of `place` with the placement of the best schedule that was found.

    Parameters
    ----------
    boards : Board
        Scratch with a leading axis of twice the width: two generations, as the rows of `place`.
    scores, kept : ndarray, shape (width, N) and (width,)
        Scratch.
    """
    nodes, stages = allowed.shape[0], work.forward.shape[2]
    width = scores.shape[0]
    old, new, count, first = 0, width, 1, 0
    clear(work, taken(boards, 0))
    for at in range(sequence.size):
        task = sequence[at]
        last = first + (2 * stages if work.training[task] else stages)
        for b in range(count):
            for node in range(nodes):
                scores[b, node] = inf
                if allowed[node, task]:
                    copy_board(taken(boards, old + b), board)
                    place[old + b, task] = node
                    if put_down(work, board, order, place[old + b], first, last, inf):
                        scores[b, node] = outlook(work, board, sequence, place[old + b], at)
        fresh = 0
        while fresh < width:
            best, node, value = pick(scores, count)
            if value == inf:
                break
            scores[best, node] = inf
            # Equal costs mostly are the same schedule with nodes renamed.
            known = False
            for k in range(fresh):
                known = known or kept[k] == value
            if known:
                continue
            kept[fresh] = value
            target = taken(boards, new + fresh)
            copy_board(taken(boards, old + best), target)
            for k in range(place.shape[1]):
                place[new + fresh, k] = place[old + best, k]
            place[new + fresh, task] = node
            put_down(work, target, order, place[new + fresh], first, last, inf)
            fresh += 1
        if fresh == 0:
            return False
        old, new, count, first = new, old, fresh, last
    for k in range(place.shape[1]):
        place[0, k] = place[old, k]
    return True


@inlined
def pick(scores: Any, count: int) -> tuple[int, int, float]:
    """Return row, column and value of the least score."""
    best, node, value = 0, 0, inf
    for b in range(count):
        for n in range(scores.shape[1]):
            if scores[b, n] < value:
                best, node, value = b, n, scores[b, n]
    return best, node, value
