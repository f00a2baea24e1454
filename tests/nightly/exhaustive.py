"""Optimum of a tiny problem in whole numbers by trying every placement and every order of starts.

Written from the rules alone; shares no code with solvers, engine or validator. Operations are
started one after the other in the order of their starts, each as early as what has started before
lets it. That is enough for terms that never gain by a later start. Idle time and node time gain by
a later first start of a node, and by nothing else, so that every later tick is tried for it.

Two things keep the search short: a branch ends where even chains without rivals cost too much, and
a state that was met before at no higher cost is not searched again.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Whole = npt.NDArray[np.int64]
FAR = 2**40
"""A time after everything."""
OPEN, ASYNC, SYNC = range(3)
_BITS, _PROBES = 18, 8

# Nothing is allocated in compiled code, so that counting references, which is slow, can be left.
compiled = njit(cache=True, _nrt=False)


class Tables(NamedTuple):
    """A problem in whole numbers, by node; N nodes, T tasks, S stages.

    `hop` has a column for each pair of stages, and at least one. A task is late when it ends after
    `due`, and its response counts from time 0. Nodes that are alike have the same entry in `alike`.
    The last five fields price what one tick, or one late task, costs.
    """

    forward: Whole
    backward: Whole
    update: Whole
    hop: Whole
    held: Whole
    room: Whole
    release: Whole
    trains: Whole
    due: Whole
    alike: Whole
    mode: int
    fifo: int
    done: Whole
    late: Whole
    makespan: int
    node_time: int
    idle: int


class _State(NamedTuple):
    """What has started, by depth of the search; a row is copied and then changed."""

    count: Whole  # operations started, by task
    node: Whole  # by task, -1 for none
    ready: Whole  # earliest start of the next operation, by task
    last: Whole  # last end so far with updates, by task
    first: Whole  # start of the first forward, by task
    event: Whole  # end that releases the next training task, by task
    until: Whole  # when memory is free again, by task and stage
    free: Whole  # when a GPU is free, by node and stage
    opened: Whole  # first start, by node; FAR for none
    closed: Whole  # last end, by node
    busy: Whole  # ticks worked, by node and stage
    totals: Whole  # clock, last end of all, cost of the tasks that are done
    whole: Whole  # all of these in one row


class _Moves(NamedTuple):
    """Starts to try, by depth; `begin` and `end` limit them by task and node."""

    begin: Whole
    end: Whole
    task: Whole
    node: Whole
    start: Whole
    size: Whole
    tried: Whole


class _Room(NamedTuple):
    """Room for the bound to work in, and for the states that were met."""

    event: Whole
    closed: Whole
    load: Whole
    keys: npt.NDArray[np.uint64]
    costs: Whole


_CLOCK, _END, _COST = range(3)


@compiled
def _operation(p: Any, task: int, k: int) -> Any:
    """Return whether the k-th operation of a task is a backward, and its stage."""
    stages = p.room.shape[1]
    return (False, k) if k < stages else (True, 2 * stages - 1 - k)


@compiled
def _operations(p: Any, task: int) -> int:
    return p.room.shape[1] * (2 if p.trains[task] else 1)


@compiled
def _length(p: Any, n: int, task: int, k: int) -> Any:
    """Return ticks of the k-th operation and those of the update right after it."""
    back, s = _operation(p, task, k)
    return (p.backward[n, task, s], p.update[n, s]) if back else (p.forward[n, task, s], 0)


@compiled
def _hop(p: Any, n: int, task: int, k: int) -> int:
    """Return ticks between operation k and the next."""
    before, after = _operation(p, task, k)[1], _operation(p, task, k + 1)[1]
    return 0 if before == after else p.hop[n, task, min(before, after)]


@compiled
def _fits(p: Any, n: int, task: int) -> bool:
    over = 0
    for s in range(p.room.shape[1]):
        over = max(over, p.held[n, task, s] - p.room[n, s])
    return over == 0


@compiled
def _sum(row: Whole) -> int:
    total = 0
    for number in row:
        total += number
    return total


@compiled
def _ahead(p: Any, task: int) -> int:
    """Return the training task whose event releases this one; -1 for none."""
    if p.trains[task] and p.mode != OPEN:
        for other in range(task - 1, -1, -1):
            if p.trains[other]:
                return other
    return -1


@compiled
def _releases(p: Any, k: int) -> bool:
    """Whether the end of a training task's k-th operation releases the next one."""
    return (p.mode == ASYNC and k == 0) or (p.mode == SYNC and k == 2 * p.room.shape[1] - 1)


@compiled
def _with_memory(p: Any, z: Any, d: int, task: int, n: int, s: int, at: int) -> int:
    """First tick from `at` on at which what a forward holds fits; FAR if that is not known yet."""
    while at < FAR:
        used, change = p.held[n, task, s], FAR
        for other in range(p.release.shape[0]):
            if other != task and z.node[d, other] == n and z.until[d, other, s] > at:
                used += p.held[n, other, s]
                change = min(change, z.until[d, other, s])
        if used <= p.room[n, s]:
            return at
        at = change
    return FAR


@compiled
def _earliest(p: Any, z: Any, d: int, task: int, n: int) -> int:
    """Earliest start of a task's next operation on a node behind all that has started."""
    k = z.count[d, task]
    back, s = _operation(p, task, k)
    at = z.ready[d, task]
    if k == 0:
        before = _ahead(p, task)
        if before >= 0:
            at = max(at, z.event[d, before])
    if sum(_length(p, n, task, k)) > 0:
        at = max(at, z.free[d, n, s])
    if back:
        return at
    if p.fifo and s > 0:
        for other in range(p.release.shape[0]):
            rival = z.node[d, other] == n and z.first[d, other] < z.first[d, task]
            if rival and z.count[d, other] <= s:
                return FAR
    return _with_memory(p, z, d, task, n, s, at)


@compiled
def _may(p: Any, z: Any, d: int, task: int, n: int) -> bool:
    """Whether a task may go on, or begin, on a node; of unused nodes that are alike the first."""
    if z.count[d, task] > 0:
        return bool(z.node[d, task] == n)
    for other in range(n):
        if p.alike[other] == p.alike[n] and z.opened[d, other] == FAR and z.opened[d, n] == FAR:
            return False
    return _fits(p, n, task)


@compiled
def _list_moves(p: Any, z: Any, m: Any, d: int) -> None:
    """List the starts from the clock on, in the order of time.

    What could have started before the clock is left out: starting it then would cost no more.
    """
    clock, nodes, size = z.totals[d, _CLOCK], p.room.shape[0], 0
    latest = _latest(p, z, d)
    least, most = FAR, -1
    for task in range(p.release.shape[0]):
        for n in range(nodes):
            own = task * nodes + n
            m.begin[d, own], m.end[d, own] = FAR, -1
            if z.count[d, task] == _operations(p, task) or not _may(p, z, d, task, n):
                continue
            at = _earliest(p, z, d, task, n)
            fresh = z.opened[d, n] == FAR
            if fresh and p.node_time + p.idle > 0:
                m.begin[d, own], m.end[d, own] = max(at, clock), latest - _alone(p, n, task)
            elif clock <= at < FAR:
                m.begin[d, own], m.end[d, own] = at, at
            least, most = min(least, m.begin[d, own]), max(most, m.end[d, own])
    for start in range(least, most + 1):
        for own in range(p.release.shape[0] * nodes):
            if m.begin[d, own] <= start <= m.end[d, own]:
                assert size < m.start.shape[1]
                m.task[d, size], m.node[d, size] = own // nodes, own % nodes
                m.start[d, size] = start
                size += 1
    m.size[d], m.tried[d] = size, 0


@compiled
def _begin(p: Any, z: Any, d: int, task: int, n: int, start: int) -> None:
    """Copy the state to the next depth and start a task's next operation there."""
    for column in range(z.whole.shape[1]):
        z.whole[d + 1, column] = z.whole[d, column]
    d += 1
    k = z.count[d, task]
    back, s = _operation(p, task, k)
    length, tail = _length(p, n, task, k)
    end = start + length
    if k == 0:
        z.node[d, task], z.first[d, task] = n, start
        z.opened[d, n] = min(z.opened[d, n], start)
    if _releases(p, k):
        z.event[d, task] = end
    if back or not p.trains[task]:
        z.until[d, task, s] = end
    else:
        z.until[d, task, s] = FAR
    if length + tail > 0:
        z.free[d, n, s] = end + tail
    z.busy[d, n, s] += length + tail
    z.last[d, task] = max(z.last[d, task], end + tail)
    z.closed[d, n] = max(z.closed[d, n], end + tail)
    z.totals[d, _END] = max(z.totals[d, _END], end + tail)
    z.totals[d, _CLOCK] = start
    z.count[d, task] = k + 1
    if k + 1 < _operations(p, task):
        z.ready[d, task] = end + _hop(p, n, task, k)
    else:
        z.ready[d, task] = end
        z.totals[d, _COST] += _task_cost(p, task, z.last[d, task])


@compiled
def _task_cost(p: Any, task: int, end: int) -> int:
    return p.done[task] * end + (p.late[task] if end > p.due[task] else 0)


@compiled
def _value(p: Any, z: Any, d: int) -> int:
    """Cost of a whole schedule."""
    total = z.totals[d, _COST] + p.makespan * z.totals[d, _END]
    for n in range(p.room.shape[0]):
        if z.opened[d, n] < FAR:
            span = z.closed[d, n] - z.opened[d, n]
            total += p.node_time * span + p.idle * (p.room.shape[1] * span - _sum(z.busy[d, n]))
    return total


@compiled
def _alone(p: Any, n: int, task: int) -> int:
    """Ticks a task takes on an empty node."""
    last, at = 0, 0
    for k in range(_operations(p, task)):
        length, tail = _length(p, n, task, k)
        at += length
        last = max(last, at + tail)
        if k + 1 < _operations(p, task):
            at += _hop(p, n, task, k)
    return last


@compiled
def _latest(p: Any, z: Any, d: int) -> int:
    """Tick by which some best way on has ended.

    Were nothing under way at a tick behind all releases and all that has started, then the rest
    could start a tick earlier.
    """
    end = z.totals[d, _END]
    for task in range(p.release.shape[0]):
        end = max(end, p.release[task])
    for task in range(p.release.shape[0]):
        most = 0
        for n in range(p.room.shape[0]):
            if z.count[d, task] > 0 and z.node[d, task] != n:
                continue
            takes = 0
            for k in range(z.count[d, task], _operations(p, task)):
                takes += sum(_length(p, n, task, k))
                takes += _hop(p, n, task, k - 1) if k > 0 else 0
            most = max(most, takes)
        end += most
    return end


@compiled
def _run_alone(p: Any, z: Any, d: int, task: int, n: int, ready: int) -> Any:
    """Last end and event of a task that meets no rival but what has started."""
    last, event, at = z.last[d, task], z.event[d, task], ready
    for k in range(z.count[d, task], _operations(p, task)):
        s = _operation(p, task, k)[1]
        length, tail = _length(p, n, task, k)
        if length + tail > 0:
            at = max(at, z.free[d, n, s])
        at += length
        last = max(last, at + tail)
        if _releases(p, k):
            event = at
        if k + 1 < _operations(p, task):
            at += _hop(p, n, task, k)
    return last, event


@compiled
def _bound(p: Any, z: Any, d: int, room: Any) -> int:
    """Cost that no way on from a state falls below."""
    nodes, stages = p.room.shape
    event, closed, load = room.event, room.closed, room.load
    clock = z.totals[d, _CLOCK]
    total, end = z.totals[d, _COST], z.totals[d, _END]
    for n in range(nodes):
        closed[n] = z.closed[d, n]
        for s in range(stages):
            load[n, s] = 0
    for task in range(p.release.shape[0]):
        event[task] = z.event[d, task]
    unplaced, longest, spans = 0, 0, 0
    for task in range(p.release.shape[0]):
        if z.count[d, task] == _operations(p, task):
            continue
        ready = max(z.ready[d, task], clock)
        before = _ahead(p, task)
        if z.count[d, task] == 0 and before >= 0:
            ready = max(ready, event[before])
        best, soonest, most, longer = FAR, FAR, 0, FAR
        for n in range(nodes):
            if z.count[d, task] > 0 and z.node[d, task] != n:
                continue
            if z.count[d, task] == 0 and not _fits(p, n, task):
                continue
            last, opens = _run_alone(p, z, d, task, n, ready)
            best, soonest = min(best, last), min(soonest, opens)
            work = 0
            for k in range(z.count[d, task], _operations(p, task)):
                takes = sum(_length(p, n, task, k))
                work += takes
                if z.count[d, task] > 0 or nodes == 1:
                    load[n, _operation(p, task, k)[1]] += takes
            most = max(most, work)
            if z.count[d, task] > 0 or nodes == 1:
                closed[n] = max(closed[n], last)
            if z.opened[d, n] < FAR:
                longer = min(longer, max(0, last - z.closed[d, n]))
            else:
                longer = min(longer, _alone(p, n, task))
        if z.count[d, task] == 0 and nodes > 1:
            unplaced += most
            longest = max(longest, longer)
        event[task] = soonest
        end = max(end, best)
        total += _task_cost(p, task, best)
    for n in range(nodes):
        for s in range(stages):
            if load[n, s] > 0:
                over = max(z.free[d, n, s], clock) + load[n, s]
                end = max(end, over)
                if z.opened[d, n] < FAR:
                    closed[n] = max(closed[n], over)
        if z.opened[d, n] < FAR:
            span = closed[n] - z.opened[d, n]
            spans += span
            idle = stages * span - unplaced - _sum(load[n]) - _sum(z.busy[d, n])
            passed = 0
            for s in range(stages):
                over = max(z.free[d, n, s], min(clock, closed[n]))
                passed += over - z.opened[d, n] - z.busy[d, n, s]
            total += p.idle * max(idle, passed, 0)
    now = 0
    for n in range(nodes):
        if z.opened[d, n] < FAR:
            now += z.closed[d, n] - z.opened[d, n]
    return total + p.makespan * end + p.node_time * max(spans, now + longest)


@compiled
def _mix(key: np.uint64, number: int) -> np.uint64:
    key = (key ^ np.uint64(number + 2**20)) * np.uint64(0x9E3779B97F4A7C15)
    return key ^ (key >> np.uint64(29))


@compiled
def _key(p: Any, z: Any, d: int) -> np.uint64:
    """Mix all that the way on from a state depends on, times in the past made one."""
    clock = z.totals[d, _CLOCK]
    past = clock - 1
    key = _mix(np.uint64(88172645463325252), clock)
    spans = p.node_time + p.idle > 0
    if p.makespan > 0:
        key = _mix(key, max(z.totals[d, _END], clock))
    for task in range(p.release.shape[0]):
        k = z.count[d, task]
        key = _mix(_mix(key, k), z.node[d, task])
        key = _mix(key, max(z.event[d, task], past))
        for s in range(p.room.shape[1]):
            key = _mix(key, max(z.until[d, task, s], past))
        if k < _operations(p, task):
            key = _mix(_mix(key, max(z.ready[d, task], past)), max(z.last[d, task], past))
        if p.fifo and 0 < k < p.room.shape[1]:
            key = _mix(key, z.first[d, task])
    for n in range(p.room.shape[0]):
        if spans:
            key = _mix(_mix(key, z.closed[d, n]), 1 if z.opened[d, n] < FAR else 0)
        for s in range(p.room.shape[1]):
            key = _mix(key, max(z.free[d, n, s], past))
    return key | np.uint64(1)


@compiled
def _met(p: Any, z: Any, d: int, keys: Any, costs: Whole) -> bool:
    """Whether the state was met at no higher cost; if not, note it."""
    cost = z.totals[d, _COST]
    for n in range(p.room.shape[0]):
        if z.opened[d, n] < FAR:
            cost -= (p.node_time + p.idle * p.room.shape[1]) * z.opened[d, n]
            cost -= p.idle * _sum(z.busy[d, n])
    key = _key(p, z, d)
    for probe in range(_PROBES):
        slot = (key + np.uint64(probe)) % np.uint64(len(keys))
        if keys[slot] == key:
            if costs[slot] <= cost:
                return True
            costs[slot] = cost
            return False
        if keys[slot] == 0:
            keys[slot], costs[slot] = key, cost
            return False
    return False


@compiled
def _search(p: Any, z: Any, m: Any, room: Any, most: int) -> Any:
    """Least cost and starts tried; the cost is -1 if there were more than `most`."""
    operations = 0
    for task in range(p.release.shape[0]):
        operations += _operations(p, task)
    best, starts, d = 2**62, 0, 0
    _list_moves(p, z, m, 0)
    while d >= 0:
        k = m.tried[d]
        if k == m.size[d]:
            d -= 1
            continue
        m.tried[d] += 1
        starts += 1
        if starts > most:
            return -1, starts
        _begin(p, z, d, m.task[d, k], m.node[d, k], m.start[d, k])
        if d + 1 == operations:
            best = min(best, _value(p, z, d + 1))
            continue
        if _bound(p, z, d + 1, room) >= best or _met(p, z, d + 1, room.keys, room.costs):
            continue
        d += 1
        _list_moves(p, z, m, d)
    return best, starts


def least_cost(p: Tables, most: int = 10**9) -> tuple[int | None, int]:
    """Return the least cost of all schedules and the number of starts tried.

    The cost is None where more than `most` starts would have to be tried. Every task must fit
    on a node, so that there is a schedule.
    """
    nodes, tasks, stages = p.held.shape
    depth = int((stages * (1 + p.trains)).sum()) + 1
    # All work in a row behind all releases.
    each = (p.forward + p.backward + p.update[:, None]).sum(2) + 2 * p.hop.sum(2)
    end = int(p.release.max() + each.max(0).sum())

    fills = {
        "count": ((tasks,), 0),
        "node": ((tasks,), -1),
        "ready": ((tasks,), 0),
        "last": ((tasks,), 0),
        "first": ((tasks,), FAR),
        "event": ((tasks,), FAR),
        "until": ((tasks, stages), 0),
        "free": ((nodes, stages), 0),
        "opened": ((nodes,), FAR),
        "closed": ((nodes,), 0),
        "busy": ((nodes, stages), 0),
        "totals": ((3,), 0),
    }
    whole = np.zeros((depth, sum(math.prod(shape) for shape, _ in fills.values())), np.int64)
    columns, at = {}, 0
    for name, (shape, fill) in fills.items():
        size = math.prod(shape)
        columns[name] = whole[:, at : at + size].reshape(depth, *shape)
        columns[name][0] = fill
        at += size
    state = _State(**columns, whole=whole)
    state.ready[0] = p.release
    pairs, wide = (depth, tasks * nodes), (depth, tasks * nodes * (end + 1))
    moves = _Moves(*(np.zeros(s, np.int64) for s in (pairs, pairs, wide, wide, wide, depth, depth)))
    room = _Room(
        p.release.copy(),
        p.alike.copy(),
        p.room.copy(),
        np.zeros(2**_BITS, np.uint64),
        np.zeros(2**_BITS, np.int64),
    )
    cost, starts = _search(p, state, moves, room, most)
    return (None if cost < 0 else int(cost)), int(starts)
