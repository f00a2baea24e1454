"""Branch and bound over the orders of a permutation flow shop, from both of its ends.

A node of the tree fixes the first and the last jobs of the order. Its bound is the one-machine
bound: on every machine, the end behind the first jobs, the work of those between, and what follows
from the start of the last jobs. Children put one more job at the front or one more at the back,
whichever leaves fewer of them (J. Gmys, M. Mezmaz, N. Melab and D. Tuyttens, "A computationally
efficient Branch-and-Bound algorithm for the permutation flow-shop scheduling problem", EJOR 284(3),
814-833, 2020). Depth first, the child with the lowest bound first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import IntArray
from lemix_opt.engine.jit import called, inlined
from solvers.exact.flow_shop import FlowShop

_DEPTH, _OPENED, _BEST, _DONE, _NODES = range(5)
"""Places in `Tree.state`: of the node at hand its depth and whether it has been opened; the best
makespan; whether the tree is done; nodes opened so far."""
_FRONT, _BACK = 0, 1


class Tree(NamedTuple):
    """Everything compiled code reads and writes; J jobs, M machines, depths 0 to J.

    Parameters
    ----------
    length, gap : ndarray of int, shape (J, M)
        Durations, and ticks between machines before them.
    release : ndarray of int, shape (J,)
        Earliest starts.
    ends : ndarray of int, shape (2, J + 1, M)
        Ends behind the first jobs, and ticks from the start of the last ones to the very end.
    rest : ndarray of int, shape (J + 1, M)
        Work of the jobs between.
    child, bound : ndarray of int, shape (J + 1, J)
        Children at every depth by rising bound.
    children, at, side : ndarray of int, shape (J + 1,)
        How many there are, the next one, and at which end they put a job.
    chosen : ndarray of int, shape (J,)
        Job put at every depth.
    used : ndarray of bool, shape (J,)
        Whether a job has been put.
    trial : ndarray of int, shape (2, J)
        Bounds of all children of the node at hand.
    trying, order : ndarray of int, shape (J,)
        A complete order, and the best one.
    free : ndarray of int, shape (M,)
        Ends of a complete order.
    state : ndarray of int, shape (5,)
    """

    length: IntArray
    gap: IntArray
    release: IntArray
    ends: IntArray
    rest: IntArray
    child: IntArray
    bound: IntArray
    children: IntArray
    at: IntArray
    side: IntArray
    chosen: IntArray
    used: npt.NDArray[np.bool_]
    trial: IntArray
    trying: IntArray
    order: IntArray
    free: IntArray
    state: IntArray


class OrderTree:
    """The tree below all orders; explored in pieces.

    Parameters
    ----------
    shop : FlowShop
        Jobs; at least one.
    order : list of int
        An order that is known.
    """

    def __init__(self, shop: FlowShop, order: list[int]) -> None:
        def table(*shape: int) -> IntArray:
            return np.zeros(shape, dtype=np.int64)

        def given(rows: object) -> IntArray:
            return np.array(rows, dtype=np.int64)

        length = given(shop.length)
        jobs, machines = length.shape
        used: npt.NDArray[np.bool_] = np.zeros(jobs, dtype=np.bool_)
        self.tree = Tree(
            *(length, given(shop.gap), given(shop.release)),
            *(table(2, jobs + 1, machines), table(jobs + 1, machines)),
            *(table(jobs + 1, jobs), table(jobs + 1, jobs)),
            *(table(jobs + 1), table(jobs + 1), table(jobs + 1)),
            table(jobs),
            used,
            table(2, jobs),
            *(given(order), given(order), table(machines), table(5)),
        )
        self.tree.rest[0] = length.sum(axis=0)
        self.tree.state[_BEST] = shop.makespan(order)

    def explore(self, nodes: int) -> None:
        """Open at most so many more nodes."""
        called(_explore, self.tree, nodes)

    @property
    def order(self) -> list[int]:
        """The best order."""
        found: list[int] = self.tree.order.tolist()
        return found

    @property
    def proven(self) -> bool:
        """Whether no order is better than the best one."""
        return bool(self.tree.state[_DONE])

    @property
    def makespan(self) -> int:
        """Last end of the best order."""
        return int(self.tree.state[_BEST])

    @property
    def lower_bound(self) -> int:
        """Ticks that every order takes at least, by what has been explored."""
        tree, depth = self.tree, int(self.tree.state[_DEPTH])
        if self.proven:
            return self.makespan
        if not tree.state[_NODES]:
            return int(tree.rest[0].max())
        unseen = [self.makespan]
        opened = bool(tree.state[_OPENED])
        for d in range(depth + opened):
            unseen += tree.bound[d, tree.at[d] : tree.children[d]][:1].tolist()
        if not opened:
            unseen.append(int(tree.bound[depth - 1, tree.at[depth - 1] - 1]))
        return min(unseen)


@lru_cache(maxsize=1)
def compile_tree() -> None:
    """Load the compiled code, or compile it, ahead of a time limit; once per process."""
    one = np.ones((1, 1), dtype=np.int64)
    OrderTree(FlowShop(one, 0 * one, np.zeros(1, dtype=np.int64)), [0]).explore(1)


@inlined
def _put(tree: Tree, depth: int, job: int, side: int) -> None:
    """Write the ends one level deeper, with a job put at one side of the order."""
    now, then = tree.ends[side, depth], tree.ends[side, depth + 1]
    ready = 0
    if side == _FRONT:
        ready = tree.release[job]
        for k in range(len(now)):
            ready = max(ready + tree.gap[job, k], now[k]) + tree.length[job, k]
            then[k] = ready
    else:
        for k in range(len(now) - 1, -1, -1):
            ready = max(ready, now[k]) + tree.length[job, k]
            then[k] = ready
            ready += tree.gap[job, k]


def _explore(tree: Tree, nodes: int) -> None:
    state, at = tree.state, tree.at
    jobs, machines = tree.length.shape
    limit = state[_NODES] + nodes
    depth = state[_DEPTH]
    while not state[_DONE]:
        if not state[_OPENED]:
            if state[_NODES] >= limit:
                break
            state[_NODES] += 1
            state[_OPENED] = 1
            _open(tree, depth)
        if at[depth] < tree.children[depth] and tree.bound[depth, at[depth]] < state[_BEST]:
            job, side = tree.child[depth, at[depth]], tree.side[depth]
            at[depth] += 1
            _put(tree, depth, job, side)
            for k in range(machines):
                tree.ends[1 - side, depth + 1, k] = tree.ends[1 - side, depth, k]
                tree.rest[depth + 1, k] = tree.rest[depth, k] - tree.length[job, k]
            tree.used[job], tree.chosen[depth] = True, job
            if depth + 1 < jobs:
                depth += 1
                state[_OPENED] = 0
            else:
                _complete(tree)
                tree.used[job] = False
        elif depth > 0:
            depth -= 1
            tree.used[tree.chosen[depth]] = False
        else:
            state[_DONE] = 1
    state[_DEPTH] = depth


@inlined
def _open(tree: Tree, depth: int) -> None:
    """Bound both kinds of children and keep the kind that leaves fewer, by rising bound."""
    jobs, machines = tree.length.shape
    best, trial = tree.state[_BEST], tree.trial
    fewest, side, highest = jobs + 1, _FRONT, 0
    for s in range(2):
        left, total = 0, 0
        for job in range(jobs):
            if tree.used[job]:
                continue
            _put(tree, depth, job, s)
            low = 0
            for k in range(machines):
                between = tree.rest[depth, k] - tree.length[job, k]
                low = max(low, tree.ends[s, depth + 1, k] + between + tree.ends[1 - s, depth, k])
            trial[s, job] = low
            total += low
            left += low < best
        if left < fewest or (left == fewest and total > highest):
            fewest, side, highest = left, s, total
    tree.children[depth], tree.at[depth], tree.side[depth] = fewest, 0, side
    child, bound = tree.child[depth], tree.bound[depth]
    kept = 0
    for job in range(jobs):
        if tree.used[job] or trial[side, job] >= best:
            continue
        place = kept
        while place > 0 and bound[place - 1] > trial[side, job]:
            bound[place], child[place] = bound[place - 1], child[place - 1]
            place -= 1
        bound[place], child[place] = trial[side, job], job
        kept += 1


@inlined
def _complete(tree: Tree) -> None:
    """Keep a complete order if it is better than the best one; releases of all jobs count here."""
    jobs, machines = tree.length.shape
    first, last = 0, jobs - 1
    for depth in range(jobs):
        if tree.side[depth] == _FRONT:
            tree.trying[first] = tree.chosen[depth]
            first += 1
        else:
            tree.trying[last] = tree.chosen[depth]
            last -= 1
    for k in range(machines):
        tree.free[k] = 0
    makespan = 0
    for place in range(jobs):
        job = tree.trying[place]
        ready = tree.release[job]
        for k in range(machines):
            ready = max(ready + tree.gap[job, k], tree.free[k]) + tree.length[job, k]
            tree.free[k] = ready
        makespan = max(makespan, ready)
    if makespan < tree.state[_BEST]:
        tree.state[_BEST] = makespan
        for place in range(jobs):
            tree.order[place] = tree.trying[place]
