"""Every task's cheapest chain under prices of what it uses, by dynamic programming.

With prices per class, stage and tick the tasks come apart, but for the closed loop: a chain waits
where that is cheaper, pays for the ticks it computes and holds memory, and for its response with
the true step of its SLO. In the closed loops the training tasks are one chain of chains. Prices
are zero from some tick on, so that nothing is gained by waiting beyond it.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemix_opt.engine.books import OPEN, SYNC
from lemix_opt.engine.jit import index, inlined


class Chains(NamedTuple):
    """Tasks in ticks and MiB by node class; see `TickData`.

    ``weight`` and ``penalty`` are per tick of response and for missing ``due``; ``allowed`` [C,T]
    says on which classes a task fits; ``head`` [T] is the earliest start, ``release`` [T] what
    responses count from; ``busy`` [C,T,2S] is how long every operation keeps its GPU, and ``span``
    [C,T] is at least as long as a chain without waits. ``runs`` and ``holds`` [K,C,T,S] say who is
    in which clique, see `solvers.bounds.cliques`.
    """

    training: npt.NDArray[np.uint8]
    head: npt.NDArray[np.int64]
    release: npt.NDArray[np.int64]
    due: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    penalty: npt.NDArray[np.float64]
    allowed: npt.NDArray[np.uint8]
    length: npt.NDArray[np.int64]
    busy: npt.NDArray[np.int64]
    pause: npt.NDArray[np.int64]
    held: npt.NDArray[np.float64]
    closing: npt.NDArray[np.int64]
    span: npt.NDArray[np.int64]
    runs: npt.NDArray[np.uint8]
    holds: npt.NDArray[np.uint8]


class Rows(NamedTuple):
    """Something per resource, class, stage and tick: prices summed up to a tick, or use.

    ``gpu`` and ``memory`` [C,S,A] are per GPU and MiB, ``clique`` [K,C,S,A] per member of a clique.
    """

    gpu: npt.NDArray[np.float64]
    memory: npt.NDArray[np.float64]
    clique: npt.NDArray[np.float64]


class Space(NamedTuple):
    """Scratch of one evaluation, G tasks in the closed loop, A ticks.

    ``run``, ``hold`` [S,A]: prices, summed up to a tick, of a task in cliques while it computes,
    and of one that holds memory; ``cost`` [2S,A]: an operation that starts at a tick, with all
    that follows; ``best`` [2S+1,A]: the same from a tick on; ``first`` [G,C,A]: a training task
    that starts at a tick, with all that follow in the loop; ``after`` [G+1,A]: all training from
    one on, from a tick on.
    """

    run: npt.NDArray[np.float64]
    hold: npt.NDArray[np.float64]
    cost: npt.NDArray[np.float64]
    best: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]


@inlined
def stage_of(k: int, stages: int) -> int:
    """Return the stage of the k-th operation of a chain."""
    return k if k < stages else 2 * stages - 1 - k


@inlined
def highest(chains: Chains, task: int, horizon: int, ticks: int) -> int:
    """Return a tick by which a chain has ended that waited until the horizon."""
    span = 0
    for kind in range(chains.span.shape[0]):
        span = max(span, chains.span[kind, task])
    return min(horizon + span + 2, ticks)


@inlined
def blend(chains: Chains, space: Space, prices: Rows, kind: int, task: int, ticks: int) -> None:
    """Fill `space.run` and `space.hold` for one task on one class."""
    low = index(chains.head[task])
    for s in range(prices.gpu.shape[1]):
        held = chains.held[kind, task, s]
        for t in range(low, ticks):
            space.run[s, t] = 0.0
            space.hold[s, t] = held * prices.memory[kind, s, t]
        for k in range(prices.clique.shape[0]):
            if chains.holds[k, kind, task, s]:
                for t in range(low, ticks):
                    space.hold[s, t] += prices.clique[k, kind, s, t]
            if chains.runs[k, kind, task, s]:
                for t in range(low, ticks):
                    space.run[s, t] += prices.clique[k, kind, s, t]


@inlined
def price_chain(
    chains: Chains, space: Space, prices: Rows, kind: int, task: int, high: int, after: int
) -> None:
    """Fill `space.cost` and `space.best` for one task on one class.

    Parameters
    ----------
    prices : Rows
        Summed up to each tick.
    high : int
        First tick that is of no interest.
    after : int
        Row of `space.after` that the end of the chain hands over to; −1 for none.
    """
    gpu = prices.gpu
    stages, ticks = gpu.shape[1], min(high, gpu.shape[2])
    trains = chains.training[task] == 1
    count = 2 * stages if trains else stages
    low, kind, task = index(chains.head[task]), index(kind), index(task)
    weight, release = chains.weight[task], chains.release[task]
    due, penalty = chains.due[task], chains.penalty[task]
    closing = chains.closing[kind] if trains else 0
    blend(chains, space, prices, kind, task, ticks)
    for t in range(low, ticks):
        value = weight * (t + closing - release)
        if t + closing > due:
            value += penalty
        if after >= 0:
            value += space.after[after, t]
        space.best[count, t] = value
    for k in range(count - 1, -1, -1):
        s = index(stage_of(k, stages))
        length, busy = index(chains.length[kind, task, k]), index(chains.busy[kind, task, k])
        next_after = index(length + (chains.pause[kind, task, k] if k + 1 < count else 0))
        if not trains:
            starts, ends = 1.0, 1.0
        elif k < stages:
            starts, ends = 1.0, 0.0
        else:
            starts, ends = 0.0, 1.0
        until = max(ticks - max(next_after, busy), low)
        # Two loops, since the first one has no step that waits for another.
        for t in range(low, until):
            space.cost[k, t] = (
                gpu[kind, s, t + busy]
                - gpu[kind, s, t]
                + space.run[s, t + length]
                - space.run[s, t]
                + ends * space.hold[s, t + length]
                - starts * space.hold[s, t]
                + space.best[k + 1, t + next_after]
            )
        smallest = inf
        for t in range(ticks - 1, until - 1, -1):
            space.cost[k, t] = inf
            space.best[k, t] = inf
        for t in range(until - 1, low - 1, -1):
            smallest = min(smallest, space.cost[k, t])
            space.best[k, t] = smallest


@inlined
def walk(chains: Chains, space: Space, use: Rows, kind: int, task: int, start: int) -> int:
    """Add what a priced chain uses, as differences; return its end.

    Its first operation starts exactly at `start`, the others where it is cheapest.
    """
    stages = use.gpu.shape[1]
    trains = chains.training[task] == 1
    count = 2 * stages if trains else stages
    t = start
    for k in range(count):
        while k and space.cost[k, t] > space.best[k, t]:
            t += 1
        s = stage_of(k, stages)
        held, length = chains.held[kind, task, s], chains.length[kind, task, k]
        use.gpu[kind, s, t] += 1
        use.gpu[kind, s, t + chains.busy[kind, task, k]] -= 1
        starts, ends = k < stages, k >= stages or not trains
        if starts:
            use.memory[kind, s, t] += held
        if ends:
            use.memory[kind, s, t + length] -= held
        for c in range(use.clique.shape[0]):
            if chains.runs[c, kind, task, s] or (starts and chains.holds[c, kind, task, s]):
                use.clique[c, kind, s, t] += 1
            if chains.runs[c, kind, task, s] or (ends and chains.holds[c, kind, task, s]):
                use.clique[c, kind, s, t + length] -= 1
        t += length
        if k + 1 < count:
            t += chains.pause[kind, task, k]
    return t


@inlined
def follow_loop(
    chains: Chains, space: Space, prices: Rows, use: Rows, loop: Any, mode: int, horizon: int
) -> float:
    """Return the cost of the closed loop's chain of chains; add what it uses."""
    classes, ticks = prices.gpu.shape[0], prices.gpu.shape[2]
    count = loop.size
    for t in range(ticks):
        space.after[count, t] = 0.0
    for g in range(count - 1, -1, -1):
        task = loop[g]
        high = ticks if mode == SYNC else highest(chains, task, horizon, ticks)
        after = g + 1 if mode == SYNC else -1
        for kind in range(classes):
            for t in range(ticks):
                space.first[g, kind, t] = inf
            if chains.allowed[kind, task]:
                price_chain(chains, space, prices, kind, task, high, after)
                length = chains.length[kind, task, 0]
                known = high - chains.span[kind, task] - 1
                for t in range(chains.head[task], ticks):
                    if mode == SYNC:
                        value = space.cost[0, t]
                    else:
                        # Behind the horizon nothing waits, and every tick costs the same.
                        value = space.cost[0, min(t, known)]
                        value += chains.weight[task] * max(t - known, 0)
                        value += space.after[g + 1, t + length] if t + length < ticks else inf
                    space.first[g, kind, t] = value
        smallest = inf
        for t in range(ticks - 1, -1, -1):
            for kind in range(classes):
                smallest = min(smallest, space.first[g, kind, t])
            space.after[g, t] = smallest
    t = 0
    for g in range(count):
        task, value, chosen = loop[g], space.after[g, t], -1
        while chosen < 0:
            for kind in range(classes):
                if chosen < 0 and space.first[g, kind, t] <= value:
                    chosen = kind
            if chosen < 0:
                t += 1
        high = ticks if mode == SYNC else highest(chains, task, horizon, ticks)
        after = g + 1 if mode == SYNC else -1
        price_chain(chains, space, prices, chosen, task, high, after)
        start = t if mode == SYNC else min(t, high - chains.span[chosen, task] - 1)
        end = walk(chains, space, use, chosen, task, start)
        t = end if mode == SYNC else t + chains.length[chosen, task, 0]
    return float(space.after[0, 0])


def relaxed(
    chains: Chains, space: Space, prices: Rows, use: Rows, loop: Any, mode: int, horizon: int
) -> float:
    """Return the cost of all tasks under prices; fill what they use, as differences by tick.

    Parameters
    ----------
    prices : Rows
        Summed up to each tick.
    use : Rows
        Zeros, to which the changes of what is in use are added.
    loop : ndarray of int
        Training tasks in the order of the closed loop; empty when releases are open.
    horizon : int
        First tick from which on all prices are zero.
    """
    classes, _, ticks = prices.gpu.shape
    total = 0.0
    for task in range(chains.training.size):
        if chains.training[task] and mode != OPEN:
            continue
        cheapest, chosen = inf, 0
        high = highest(chains, task, horizon, ticks)
        for kind in range(classes):
            if chains.allowed[kind, task]:
                price_chain(chains, space, prices, kind, task, high, -1)
                if space.best[0, chains.head[task]] < cheapest:
                    cheapest, chosen = space.best[0, chains.head[task]], kind
        if classes > 1:
            price_chain(chains, space, prices, chosen, task, high, -1)
        start = chains.head[task]
        while space.cost[0, start] > space.best[0, start]:
            start += 1
        walk(chains, space, use, chosen, task, start)
        total += cheapest
    if loop.size:
        total += follow_loop(chains, space, prices, use, loop, mode, horizon)
    return total
