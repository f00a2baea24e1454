"""Optimum of a tiny instance by trying every placement and every order of operations.

Written from the rules alone; shares no code with solvers, engine or validator. Right for regular
objectives, where starting an operation earlier never hurts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from lemix_opt import Instance

Ends = dict[tuple[int, str, int], float]


def _chain(instance: Instance, task: int) -> list[tuple[str, int]]:
    stages = range(instance.cluster.stages)
    down = [("F", s) for s in stages]
    return down + [("B", s) for s in reversed(stages)] * int(instance.workload.kind[task])


def _merges(left: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if not any(left):
        yield ()
    for i, count in enumerate(left):
        if count:
            for rest in _merges((*left[:i], count - 1, *left[i + 1 :])):
                yield (i, *rest)


def _fits(held: list[tuple[float, float, float]], room: float) -> bool:
    return all(sum(h for a, b, h in held if a <= begin < b) <= room for begin, _, _ in held)


def schedules(instance: Instance) -> Iterator[list[float]]:
    """Yield the last ends of all tasks, for every placement and order in which they can run."""
    tasks = range(instance.tasks)
    chains = [_chain(instance, i) for i in tasks]
    for place in itertools.product(range(instance.cluster.nodes), repeat=instance.tasks):
        for order in _merges(tuple(map(len, chains))):
            ends = _run(instance, chains, place, order)
            if ends is not None:
                yield ends


def _run(
    instance: Instance,
    chains: list[list[tuple[str, int]]],
    place: tuple[int, ...],
    order: tuple[int, ...],
) -> list[float] | None:
    """Start operations in the given order of starts, each as early as that order lets it."""
    costs, work = instance.costs, instance.workload
    done = [0] * instance.tasks
    begin: Ends = {}
    end: Ends = {}
    free: dict[tuple[int, int], float] = {}
    last = [0.0] * instance.tasks
    held: dict[tuple[int, int], list[tuple[int, float]]] = {}
    clock = 0.0
    for i in order:
        phase, s = chains[i][done[i]]
        n = place[i]
        k = int(instance.cluster.node_class[n])
        ready = float(work.release_s[i])
        if done[i] == 0:
            if work.kind[i] and instance.release_mode != "open":
                ahead = [j for j in range(i) if work.kind[j]]
                if ahead:
                    event = (ahead[-1], "F" if instance.release_mode == "async" else "B", 0)
                    if event not in end:
                        return None
                    ready = max(ready, end[event])
        else:
            before = chains[i][done[i] - 1]
            hop = costs.hop_s[k, i, min(s, before[1])] if before[1] != s else 0.0
            ready = end[(i, *before)] + float(hop)
        # Orders are orders of starts in time, so that every schedule is met by some order.
        start = max(ready, free.get((n, s), 0.0), clock)
        if phase == "F":
            room = instance.capacity_bytes[n, s] - instance.resident_bytes[n, s]
            start_at = start
            for time_s in sorted({start, *end.values()}):
                if time_s < start:
                    continue
                using = 0.0
                for j, amount in held.get((n, s), []):
                    free_at = end.get((j, "B" if work.kind[j] else "F", s), float("inf"))
                    using += amount if free_at > time_s else 0.0
                if using + costs.held_bytes[k, i, s] <= room:
                    start_at = time_s
                    break
            else:
                return None
            start = start_at
            held.setdefault((n, s), []).append((i, float(costs.held_bytes[k, i, s])))
            if instance.fifo and s > 0:
                for j in range(instance.tasks):
                    first = (j, "F", 0) in begin and begin[j, "F", 0] < begin[i, "F", 0]
                    if j != i and place[j] == n and first and (j, "F", s) not in begin:
                        return None
        length = float((costs.forward_s if phase == "F" else costs.backward_s)[k, i, s])
        begin[i, phase, s], end[i, phase, s] = start, start + length
        tail = float(costs.update_s[k, s] + costs.all_reduce_s[k, s]) if phase == "B" else 0.0
        free[n, s] = start + length + tail
        last[i] = max(last[i], start + length + tail)
        clock = start
        done[i] += 1
    return last


def optimum(instance: Instance, value: Callable[[list[float]], float]) -> float:
    """Return the least value over all schedules, infinity when there is none."""
    return min(map(value, schedules(instance)), default=float("inf"))
