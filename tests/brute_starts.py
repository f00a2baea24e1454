"""Optimum of a tiny instance by trying every placement and every integer start up to a horizon.

Written from the rules alone; shares no code with solvers, engine, validator or `brute_force`. Right
for any objective, also those where starting later can help.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from lemix_opt import Instance

Start = dict[tuple[int, str, int], int]
Placed = tuple[tuple[int, ...], Start]


def horizon(instance: Instance) -> int:
    """Return a tick by which some optimal schedule has ended: all work in a row."""
    costs, kind = instance.costs, instance.workload.kind
    total = int(max(instance.workload.release_s, default=0))
    for i in range(instance.tasks):
        total += int(costs.forward_s[0, i].sum() + costs.hop_s[0, i].sum())
        if kind[i]:
            total += int(costs.backward_s[0, i].sum() + costs.hop_s[0, i].sum())
            total += int(costs.update_s[0].sum() + costs.all_reduce_s[0].sum())
    return total


def _operations(instance: Instance) -> list[tuple[int, str, int]]:
    stages = range(instance.cluster.stages)
    found = []
    for i in range(instance.tasks):
        found += [(i, "F", s) for s in stages]
        if instance.workload.kind[i]:
            found += [(i, "B", s) for s in reversed(stages)]
    return found


def _length(instance: Instance, operation: tuple[int, str, int]) -> int:
    i, phase, s = operation
    costs = instance.costs
    return int((costs.forward_s if phase == "F" else costs.backward_s)[0, i, s])


def _tail(instance: Instance, operation: tuple[int, str, int]) -> int:
    if operation[1] != "B":
        return 0
    costs, stage = instance.costs, operation[2]
    return int(costs.update_s[0, stage] + costs.all_reduce_s[0, stage])


def solutions(instance: Instance) -> Iterator[Placed]:
    """Yield every feasible placement with integer starts."""
    operations = _operations(instance)
    end = horizon(instance)
    for place in itertools.product(range(instance.cluster.nodes), repeat=instance.tasks):
        yield from _extend(instance, operations, place, {}, end)


def _extend(
    instance: Instance,
    operations: list[tuple[int, str, int]],
    place: tuple[int, ...],
    start: Start,
    end: int,
) -> Iterator[Placed]:
    if len(start) == len(operations):
        if _memory_holds(instance, place, start) and _fifo_holds(instance, place, start):
            yield place, dict(start)
        return
    operation = operations[len(start)]
    i, phase, s = operation
    earliest = int(instance.workload.release_s[i])
    if (phase, s) != ("F", 0):
        before = operations[len(start) - 1]
        earliest = start[before] + _length(instance, before)
        if before[2] != s:
            earliest += int(instance.costs.hop_s[0, i, min(s, before[2])])
    elif instance.workload.kind[i] and instance.release_mode != "open":
        ahead = [j for j in range(i) if instance.workload.kind[j]]
        if ahead:
            event = (ahead[-1], "F" if instance.release_mode == "async" else "B", 0)
            earliest = max(earliest, start[event] + _length(instance, event))
    length = _length(instance, operation)
    for at in range(earliest, end - length - _tail(instance, operation) + 1):
        busy = (at, at + length + _tail(instance, operation))
        clash = any(
            place[o[0]] == place[i]
            and o[2] == s
            and busy[0] < start[o] + _length(instance, o) + _tail(instance, o)
            and start[o] < busy[1]
            for o in start
        )
        if not clash:
            start[operation] = at
            yield from _extend(instance, operations, place, start, end)
            del start[operation]


def _memory_holds(instance: Instance, place: tuple[int, ...], start: Start) -> bool:
    for (i, phase, s), at in start.items():
        if phase != "F":
            continue
        used = 0.0
        for j in range(instance.tasks):
            last = (j, "B" if instance.workload.kind[j] else "F", s)
            if place[j] == place[i] and start[j, "F", s] <= at:
                ends = start[last] + _length(instance, last)
                used += instance.costs.held_bytes[0, j, s] if at < ends else 0.0
        room = instance.capacity_bytes[place[i], s] - instance.resident_bytes[place[i], s]
        if used > room:
            return False
    return True


def _fifo_holds(instance: Instance, place: tuple[int, ...], start: Start) -> bool:
    if not instance.fifo:
        return True
    for i, j in itertools.permutations(range(instance.tasks), 2):
        if place[i] == place[j] and start[i, "F", 0] < start[j, "F", 0]:
            for s in range(instance.cluster.stages):
                if start[i, "F", s] > start[j, "F", s]:
                    return False
    return True


def spans(instance: Instance, placed: Placed) -> dict[int, tuple[int, int]]:
    """Return the first start and last end of every used node."""
    place, start = placed
    found: dict[int, tuple[int, int]] = {}
    for operation, at in start.items():
        node = place[operation[0]]
        ends = at + _length(instance, operation) + _tail(instance, operation)
        first, last = found.get(node, (at, ends))
        found[node] = (min(first, at), max(last, ends))
    return found


def busy(instance: Instance, placed: Placed) -> int:
    """Return the ticks GPUs work."""
    return sum(_length(instance, o) + _tail(instance, o) for o in placed[1])


def optimum(instance: Instance, value: Callable[[Placed], float]) -> float:
    """Return the least value over all solutions, infinity when there is none."""
    return min(map(value, solutions(instance)), default=float("inf"))
