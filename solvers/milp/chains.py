"""Operations in the order of their tasks' chains, and the ticks in which each may start."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lemix_opt.checks import BoolArray, IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.milp.rounding import Rounded


@dataclass(frozen=True)
class Chains:
    """Forwards and backwards of all tasks, O operations, each task's in the order they run.

    Parameters
    ----------
    task, phase, stage : ndarray of int, shape (O,)
        What the operation is.
    length, tail, gap : ndarray of int, shape (N, O)
        Ticks it runs, ticks of the update that holds the GPU right after it, and ticks of the hop
        before it.
    spans : tuple of (first, end)
        Operations of every task: ``first`` up to, but without, ``end``.
    event : tuple of int
        Operation whose end releases the training task after it, by task; −1 where none does.
    """

    task: IntArray
    phase: IntArray
    stage: IntArray
    length: IntArray
    tail: IntArray
    gap: IntArray
    spans: tuple[tuple[int, int], ...]
    event: tuple[int, ...]

    @property
    def loop(self) -> tuple[tuple[int, int], ...]:
        """Pairs of training tasks of which the first one's event releases the second."""
        chained = [i for i, operation in enumerate(self.event) if operation >= 0]
        return tuple(pairwise(chained))

    def holds_until(self, task: int, stage: int) -> int:
        """Operation at whose end a task frees its memory on a stage."""
        first, end = self.spans[task]
        return int(first + np.flatnonzero(self.stage[first:end] == stage)[-1])

    def closing(self, task: int) -> list[int]:
        """Operations of a task whose update may be the last to end, the last operation included."""
        first, end = self.spans[task]
        # An update shorter than the chain behind it never ends last.
        rest = np.cumsum((self.length + self.gap)[:, first:end][:, ::-1], axis=1)[:, ::-1]
        behind = np.zeros_like(rest)
        behind[:, :-1] = rest[:, 1:]
        behind += self.tail[:, end - 1 : end]
        longer = np.flatnonzero((self.tail[:, first:end] > behind).any(axis=0)).tolist()
        return [first + k for k in longer] + [end - 1]


def chains(instance: Instance, data: Rounded) -> Chains:
    """List the operations of an instance in ticks."""
    nodes, stages = instance.cluster.nodes, instance.cluster.stages
    mode = instance.release_mode
    rows: list[tuple[int, int, int]] = []
    columns: list[tuple[IntArray, IntArray, IntArray]] = []
    spans, event = [], []
    none = np.zeros(nodes, dtype=np.int64)
    for i in range(instance.tasks):
        trains = bool(instance.workload.is_training[i])
        first = len(rows)
        for s in range(stages):
            rows.append((i, FORWARD, s))
            columns.append((data.forward[:, i, s], none, data.hop[:, i, s - 1] if s else none))
        for s in reversed(range(stages if trains else 0)):
            rows.append((i, BACKWARD, s))
            hop = data.hop[:, i, s] if s < stages - 1 else none
            columns.append((data.backward[:, i, s], data.update[:, s], hop))
        spans.append((first, len(rows)))
        opens = first if mode == "async" else len(rows) - 1
        event.append(opens if trains and mode != "open" else -1)
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    ticks = np.array(columns, dtype=np.int64).reshape(-1, 3, nodes)
    return Chains(
        table[:, 0],
        table[:, 1],
        table[:, 2],
        ticks[:, 0].T,
        ticks[:, 1].T,
        ticks[:, 2].T,
        tuple(spans),
        tuple(event),
    )


def open_nodes(instance: Instance, data: Rounded) -> BoolArray:
    """Whether a task may run on a node, shape (T, N).

    Of nodes that are alike, the k-th is closed to the first k tasks: nodes can always be renamed
    in the order of the first task they run, so that some optimal schedule keeps to this.
    """
    may = np.array((data.held <= data.room[:, None, :]).all(axis=2).T)
    kind = instance.cluster.node_class
    seen: dict[tuple[int, ...], int] = {}
    for n in range(instance.cluster.nodes):
        alike = (int(kind[n]), *data.room[n].tolist())
        rank = seen.get(alike, 0)
        seen[alike] = rank + 1
        may[:rank, n] = False
    return may


@dataclass(frozen=True)
class Heads:
    """What the chains alone say about the earliest times, in ticks.

    Parameters
    ----------
    may : ndarray of bool, shape (T, N)
        Nodes a task may run on.
    early : ndarray of int, shape (N, O)
        Earliest start on a node.
    done : ndarray of int, shape (T,)
        Earliest end of the whole task, on the best node.
    """

    may: BoolArray
    early: IntArray
    done: IntArray


def heads(chain: Chains, data: Rounded, may: BoolArray) -> Heads:
    """Run every chain from its release on, as if it were alone; every task needs an open node."""
    early = np.zeros_like(chain.length)
    done = np.zeros(len(chain.spans), dtype=np.int64)
    event = 0
    for i, (first, end) in enumerate(chain.spans):
        nodes = may[i]
        clock = np.full(len(early), data.release[i])
        if chain.event[i] >= 0:
            clock = np.maximum(clock, event)
        last = np.zeros_like(clock)
        for o in range(first, end):
            early[:, o] = clock + chain.gap[:, o]
            clock = early[:, o] + chain.length[:, o]
            last = np.maximum(last, clock + chain.tail[:, o])
            if o == chain.event[i]:
                event = int(clock[nodes].min())
        done[i] = last[nodes].min()
    return Heads(may, early, done)


@dataclass(frozen=True)
class Windows:
    """Ticks between which every operation starts.

    Parameters
    ----------
    may : ndarray of bool, shape (T, N)
        Nodes a task may run on.
    early, late : ndarray of int, shape (N, O)
        Earliest and latest start; meaningless on a node that is not open to the task.
    done_early, done_late : ndarray of int, shape (T,)
        Earliest and latest end of the whole task.
    possible : bool
        Whether every task has a node whose windows are not empty.
    """

    may: BoolArray
    early: IntArray
    late: IntArray
    done_early: IntArray
    done_late: IntArray
    possible: bool


def windows(chain: Chains, head: Heads, deadline: IntArray) -> Windows:
    """Run every chain backwards from a deadline per task, shape (T,), in ticks."""
    late = np.zeros_like(head.early)
    may = head.may.copy()
    opens: dict[int, int] = {}
    follower = dict(chain.loop)
    for i in reversed(range(len(chain.spans))):
        first, end = chain.spans[i]
        start = np.full(len(late), deadline[i])
        for o in reversed(range(first, end)):
            latest = np.minimum(start, deadline[i] - chain.tail[:, o])
            if o == chain.event[i] and i in follower:
                latest = np.minimum(latest, opens[follower[i]])
            late[:, o] = latest - chain.length[:, o]
            start = late[:, o] - chain.gap[:, o]
        may[i] &= (head.early[:, first:end] <= late[:, first:end]).all(axis=1)
        opens[i] = int(late[may[i], first].max(initial=-1))
    done_late = np.minimum(deadline, _latest_done(chain, may, late))
    return Windows(may, head.early, late, head.done, done_late, bool(may.any(axis=1).all()))


def _latest_done(chain: Chains, may: BoolArray, late: IntArray) -> IntArray:
    ends = late + chain.length + chain.tail
    return np.array(
        [
            ends[np.ix_(may[i], np.arange(first, end))].max(initial=0)
            for i, (first, end) in enumerate(chain.spans)
        ],
        dtype=np.int64,
    )
