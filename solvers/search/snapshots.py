"""Snapshots of the board along the present order, from which changed orders are decoded.

A move leaves the order as it is before the first operation that it concerns, and with it what the
board holds by then. Snapshots are taken at fixed positions on the way through such common parts,
when they are missing; when a move is taken, those behind its first change are given up.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemix_opt.engine.jit import inlined
from solvers.search.decode import Board, Work, board_of, clear, put_down, spans_of

SNAPSHOTS = 16


class Snapshots(NamedTuple):
    """Boards with a leading axis, and how many are valid."""

    boards: Board
    valid: npt.NDArray[np.int64]


def boards_of(work: Work, count: int) -> Board:
    """Return so many boards: the fields of one with a leading axis."""
    return Board(*(np.zeros((count, *a.shape), dtype=a.dtype) for a in board_of(work)))


def snapshots_of(work: Work) -> Snapshots:
    """Return room for snapshots, none of them valid."""
    return Snapshots(boards_of(work, SNAPSHOTS), np.zeros(1, dtype=np.int64))


@inlined
def position(index: int, size: int) -> int:
    """Return before which operation of an order a snapshot is taken."""
    return (index + 1) * size // (SNAPSHOTS + 1)


@inlined
def taken(b: Board, index: int) -> Board:
    """Return one of many boards."""
    return Board(
        *(b.begin[index], b.stop[index], b.intervals[index]),
        *(b.moment[index], b.level[index], b.moments[index], b.behind[index]),
        *(b.start[index], b.done[index], b.ready[index], b.end[index]),
        *(b.opened[index], b.openings[index], b.first[index], b.last[index]),
        *(b.cost[index], b.latest[index]),
    )


@inlined
def copy_list(source: Any, target: Any, count: int) -> None:
    """Copy the first so many entries."""
    for k in range(count):
        target[k] = source[k]


@inlined
def copy_board(source: Board, target: Board) -> None:
    """Copy what a board holds; entries behind the ends of its lists mean nothing."""
    for gpu in range(source.intervals.size):
        count, moments = source.intervals[gpu], source.moments[gpu]
        copy_list(source.begin[gpu], target.begin[gpu], count)
        copy_list(source.stop[gpu], target.stop[gpu], count)
        copy_list(source.moment[gpu], target.moment[gpu], moments)
        copy_list(source.level[gpu], target.level[gpu], moments)
        target.intervals[gpu], target.moments[gpu] = count, moments
        target.behind[gpu] = source.behind[gpu]
    for task in range(source.done.size):
        done = source.done[task]
        copy_list(source.start[task], target.start[task], source.start.shape[1] if done else 0)
        target.done[task], target.ready[task] = done, source.ready[task]
        target.end[task] = source.end[task]
    for node in range(source.openings.size):
        openings = source.openings[node]
        copy_list(source.opened[node], target.opened[node], openings)
        target.openings[node] = openings
        target.first[node], target.last[node] = source.first[node], source.last[node]
    target.cost[0], target.latest[0] = source.cost[0], source.latest[0]


@inlined
def decode(
    work: Work,
    board: Board,
    snapshots: Snapshots,
    order: Any,
    place: Any,
    changed: int,
    limit: float,
) -> float:
    """Fill the board; return the objective in ticks times weight, or infinity beyond the limit.

    Parameters
    ----------
    changed : int
        Position in the order up to which it and the placements are those of the snapshots.
    """
    size = order.size
    at, index = 0, snapshots.valid[0]
    while index > 0 and position(index - 1, size) > changed:
        index -= 1
    if index:
        at = position(index - 1, size)
        copy_board(taken(snapshots.boards, index - 1), board)
    else:
        clear(work, board)
    while at < size:
        missing = index == snapshots.valid[0] and index < SNAPSHOTS
        stop = position(index, size) if missing else size
        if stop > changed:
            missing, stop = False, size
        if not put_down(work, board, order, place, at, stop, limit):
            return inf
        if missing:
            copy_board(board, taken(snapshots.boards, index))
            index += 1
            snapshots.valid[0] = index
        at = stop
    return float(board.cost[0] + spans_of(work, board, place))


@inlined
def give_up(snapshots: Snapshots, changed: int, size: int) -> None:
    """Forget the snapshots behind the first change of a move that was taken."""
    while snapshots.valid[0] and position(snapshots.valid[0] - 1, size) > changed:
        snapshots.valid[0] -= 1
