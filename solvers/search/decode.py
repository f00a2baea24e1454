"""Decoding: a placement and an order of operations become a schedule, in ticks.

The operations are put on their node in the given order, each as early as its predecessor, the
GPU's gaps and its memory allow. Training holds its memory without end until its backward is put
down; where that leaves no room for a forward, the training that has come furthest on the node goes
on first, which always can. What comes out keeps every rule of the exact model, and every active
schedule is the outcome of its own order of starts (but for the FIFO option, under which a task's
forwards are put down in one go).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemix_opt.engine.books import OPEN, SYNC
from lemix_opt.engine.jit import inlined

NEVER = -1


class Work(NamedTuple):
    """The instance in ticks and MiB, by node where costs are by class; see `TickData`.

    ``after`` holds ticks from the start of every operation to the end of its task, if nothing is
    waited for.
    """

    training: npt.NDArray[np.uint8]
    release: npt.NDArray[np.int64]
    due: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    penalty: npt.NDArray[np.float64]
    after: npt.NDArray[np.int64]
    forward: npt.NDArray[np.int64]
    backward: npt.NDArray[np.int64]
    hop: npt.NDArray[np.int64]
    update: npt.NDArray[np.int64]
    held: npt.NDArray[np.int64]
    room: npt.NDArray[np.int64]
    rules: npt.NDArray[np.float64]


# Entries of `Work.rules`: release mode, FIFO option, weights per tick of the other terms.
MODE, FIFO, MAKESPAN, NODE_TIME, IDLE, RULES = range(6)


class Board(NamedTuple):
    """What has been put down so far.

    Per GPU: busy intervals in order (``begin``, ``stop``, ``intervals``), memory in use from each
    ``moment`` on (``level``, ``moments``), and the end of the forward put down last (``behind``).
    Per node: training under way (``opened``, ``openings``), first start and last end. Per task:
    operations put down so far (``done``), their starts, when the next one may start (``ready``),
    and when all will have ended if nothing more is waited for. What responses with these ends
    cost, in ticks times weight, and the training task that began last.
    """

    begin: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    intervals: npt.NDArray[np.int64]
    moment: npt.NDArray[np.int64]
    level: npt.NDArray[np.int64]
    moments: npt.NDArray[np.int64]
    behind: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]
    ready: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    opened: npt.NDArray[np.int64]
    openings: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    cost: npt.NDArray[np.float64]
    latest: npt.NDArray[np.int64]


def board_of(work: Work) -> Board:
    """Return an empty board."""
    nodes, tasks, stages = work.forward.shape
    gpus, rows = nodes * stages, 2 * tasks + 2

    def table(*shape: int) -> npt.NDArray[np.int64]:
        return np.zeros(shape, dtype=np.int64)

    return Board(
        *(table(gpus, rows), table(gpus, rows), table(gpus)),
        *(table(gpus, 2 * rows), table(gpus, 2 * rows), table(gpus), table(gpus)),
        *(table(tasks, 2 * stages), table(tasks), table(tasks), table(tasks)),
        *(table(nodes, tasks), table(nodes), table(nodes), table(nodes)),
        *(np.zeros(1), table(1)),
    )


@inlined
def gap(board: Board, gpu: int, ready: int, length: int) -> int:
    """Return the earliest start from `ready` on at which a GPU is free for so long."""
    count = board.intervals[gpu]
    at = count
    while at > 0 and board.stop[gpu, at - 1] > ready:
        at -= 1
    while at < count and board.begin[gpu, at] < ready + length:
        ready = max(ready, board.stop[gpu, at])
        at += 1
    return ready


@inlined
def room_from(board: Board, gpu: int, start: int, length: int, need: int, room: int) -> int:
    """Return `start` if the memory is there for so long, else when to look again, or `NEVER`.

    Parameters
    ----------
    length : int
        Ticks; 0 stands for without end.
    """
    last = board.moments[gpu] - 1
    at = last
    if length:
        while at > 0 and board.moment[gpu, at] >= start + length:
            at -= 1
    while at >= 0:
        if board.level[gpu, at] + need > room:
            if at == last:
                return NEVER
            return int(max(start, board.moment[gpu, at + 1]))
        if length and board.moment[gpu, at] <= start:
            return start
        at -= 1
        if at >= 0 and not length and board.moment[gpu, at + 1] <= start:
            return start
    return start


@inlined
def occupy(board: Board, gpu: int, start: int, length: int) -> None:
    """Note a busy interval."""
    at = board.intervals[gpu]
    while at > 0 and board.begin[gpu, at - 1] >= start:
        board.begin[gpu, at] = board.begin[gpu, at - 1]
        board.stop[gpu, at] = board.stop[gpu, at - 1]
        at -= 1
    board.begin[gpu, at] = start
    board.stop[gpu, at] = start + length
    board.intervals[gpu] += 1


@inlined
def hold(board: Board, gpu: int, moment: int, need: int) -> None:
    """Change the memory in use from a moment on."""
    moments = board.moments[gpu]
    at = moments
    while at > 0 and board.moment[gpu, at - 1] >= moment:
        at -= 1
    if at == moments or board.moment[gpu, at] != moment:
        for k in range(moments, at, -1):
            board.moment[gpu, k] = board.moment[gpu, k - 1]
            board.level[gpu, k] = board.level[gpu, k - 1]
        board.moment[gpu, at] = moment
        board.level[gpu, at] = board.level[gpu, at - 1]
        moments += 1
        board.moments[gpu] = moments
    for k in range(at, moments):
        board.level[gpu, k] += need


@inlined
def foresee(work: Work, board: Board, task: int, end: int) -> None:
    """Note when a task will have ended, unless a later end is known, and what that costs."""
    before = board.end[task]
    if end <= before:
        return
    board.end[task] = end
    board.cost[0] += work.weight[task] * (end - before)
    if before <= work.due[task] < end:
        board.cost[0] += work.penalty[task]


@inlined
def put_forward(work: Work, board: Board, task: int, node: int, fifo: bool) -> bool:
    """Put down the next operation of a task, a forward; False where memory is lacking."""
    stages = work.forward.shape[2]
    s = board.done[task]
    gpu = node * stages + s
    trains = work.training[task]
    length, need, ready = work.forward[node, task, s], work.held[node, task, s], board.ready[task]
    if fifo:
        ready = max(ready, board.behind[gpu])
    start = gap(board, gpu, ready, length)
    while need:
        free = room_from(board, gpu, start, 0 if trains else length, need, work.room[node, s])
        if free == NEVER:
            return False
        if free == start:
            break
        start = gap(board, gpu, free, length)
    if length:
        occupy(board, gpu, start, length)
    stop = start + length
    if need:
        hold(board, gpu, start, need)
        if not trains:
            hold(board, gpu, stop, -need)
    board.behind[gpu] = stop
    board.start[task, s] = start
    board.done[task] = s + 1
    foresee(work, board, task, start + work.after[node, task, s])
    if s == 0:
        board.first[node] = min(board.first[node], start)
        if trains:
            board.opened[node, board.openings[node]] = task
            board.openings[node] += 1
    if s + 1 < stages:
        stop += work.hop[node, task, s]
    elif not trains:
        board.last[node] = max(board.last[node], stop)
    board.ready[task] = stop
    return True


@inlined
def put_backward(work: Work, board: Board, task: int, node: int) -> None:
    """Put down the next operation of a task, a backward with its update."""
    stages = work.forward.shape[2]
    s = 2 * stages - 1 - board.done[task]
    gpu = node * stages + s
    length, update = work.backward[node, task, s], work.update[node, s]
    start = gap(board, gpu, board.ready[task], length + update)
    if length + update:
        occupy(board, gpu, start, length + update)
    stop = start + length
    if work.held[node, task, s]:
        hold(board, gpu, stop, -work.held[node, task, s])
    board.start[task, stages + s] = start
    foresee(work, board, task, start + work.after[node, task, board.done[task]])
    board.done[task] += 1
    if s:
        board.ready[task] = stop + work.hop[node, task, s - 1]
        return
    board.last[node] = max(board.last[node], board.end[task])
    board.openings[node] -= 1
    at = 0
    while board.opened[node, at] != task:
        at += 1
    board.opened[node, at] = board.opened[node, board.openings[node]]


@inlined
def go_on(work: Work, board: Board, node: int) -> None:
    """Put down the next operation of the training that has come furthest on a node.

    Its memory is there, since whoever holds any on its next stage has come further.
    """
    stages, furthest = work.forward.shape[2], board.opened[node, 0]
    for at in range(1, board.openings[node]):
        task = board.opened[node, at]
        if board.done[task] > board.done[furthest] or (
            board.done[task] == board.done[furthest] and task < furthest
        ):
            furthest = task
    if board.done[furthest] < stages:
        put_forward(work, board, furthest, node, False)
    else:
        put_backward(work, board, furthest, node)


@inlined
def clear(work: Work, board: Board) -> None:
    """Empty the board; all tasks are foreseen to end as soon as they can."""
    nodes, tasks, stages = work.forward.shape
    for gpu in range(nodes * stages):
        board.intervals[gpu], board.behind[gpu] = 0, 0
        board.moments[gpu], board.moment[gpu, 0], board.level[gpu, 0] = 1, -1, 0
    for node in range(nodes):
        board.first[node], board.last[node], board.openings[node] = 2**62, 0, 0
    board.cost[0], board.latest[0] = 0.0, NEVER
    for task in range(tasks):
        soonest = work.after[0, task, 0]
        for node in range(1, nodes):
            soonest = min(soonest, work.after[node, task, 0])
        board.done[task], board.end[task] = 0, work.release[task]
        board.ready[task] = work.release[task]
        foresee(work, board, task, work.release[task] + soonest)


@inlined
def wait_for_loop(work: Work, board: Board, task: int, place: Any) -> None:
    """Let a training task wait for the one before it in a closed loop."""
    stages, mode, previous = work.forward.shape[2], int(work.rules[MODE]), board.latest[0]
    board.latest[0] = task
    if previous == NEVER:
        return
    node = place[previous]
    if mode == SYNC:
        while board.done[previous] < 2 * stages:
            go_on(work, board, node)
        event = board.start[previous, stages] + work.backward[node, previous, 0]
    else:
        event = board.start[previous, 0] + work.forward[node, previous, 0]
    board.ready[task] = max(board.ready[task], event)


@inlined
def put_down(
    work: Work, board: Board, order: Any, place: Any, first: int, last: int, limit: float
) -> bool:
    """Put down a part of an order.

    Parameters
    ----------
    order : ndarray of int
        Operations 2S·task + k, with k counting along the task's chain: a permutation in which
        every chain is in order, and in a closed loop the first forwards of training tasks are in
        order of their index.
    place : ndarray of int, shape (T,)
        Node of every task; the task fits there alone.
    first, last : int
        Positions of the first operation and behind the last one.
    limit : float
        Ticks times weight.

    Returns
    -------
    bool
        False once the cost is sure to exceed the limit.
    """
    stages = work.forward.shape[2]
    closed, fifo = work.rules[MODE] != OPEN, work.rules[FIFO] > 0
    for at in range(first, last):
        task = order[at] // (2 * stages)
        k = order[at] - 2 * stages * task
        if board.done[task] > k:
            continue
        node = place[task]
        if k == 0 and closed and work.training[task]:
            wait_for_loop(work, board, task, place)
        if k >= stages:
            put_backward(work, board, task, node)
        else:
            # Under FIFO a task's forwards are put down in one go, so that none overtakes it.
            while board.done[task] <= (stages - 1 if fifo else k):
                while not put_forward(work, board, task, node, fifo):
                    if board.openings[node] == 0:
                        return False
                    go_on(work, board, node)
        if board.cost[0] > limit:
            return False
    return True


@inlined
def spans_of(work: Work, board: Board, place: Any) -> float:
    """Return what makespan, node time and idleness cost, in ticks times weight."""
    nodes, tasks, stages = work.forward.shape
    makespan, span = 0, 0
    for node in range(nodes):
        makespan = max(makespan, board.last[node])
        if board.last[node]:
            span += board.last[node] - board.first[node]
    cost = work.rules[MAKESPAN] * makespan + work.rules[NODE_TIME] * span
    if work.rules[IDLE]:
        busy = 0
        for task in range(tasks):
            node = place[task]
            for s in range(stages):
                busy += work.forward[node, task, s]
                if work.training[task]:
                    busy += work.backward[node, task, s] + work.update[node, s]
        cost += work.rules[IDLE] * (stages * span - busy)
    return float(cost)
