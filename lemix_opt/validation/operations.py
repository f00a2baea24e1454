"""Where the operations of a schedule lie in its columns, task by task and GPU by GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.generated import Iterations
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD, SYNC, UPDATE, Operations, Schedule
from lemix_opt.validation.violation import TOLERANCE_S

BLOCK_ROWS = 1 << 16
"""Operations that are looked at together: few enough for a processor's cache."""
ITERATION = -1
"""Stands for the task of an iteration of token generation."""


class Layout(NamedTuple):
    """Phase, stage and micro-batch of all operations of a task, in canonical order.

    Parameters
    ----------
    trains : bool
        Whether the task is a training task.
    kind : int
        Class of its node.
    parts : int
        Its micro-batches.
    phase, stage, part : ndarray of int, shape (W,)
        One entry per operation.
    """

    trains: bool
    kind: int
    parts: int
    phase: IntArray
    stage: IntArray
    part: IntArray


def layout_of(instance: Instance, trains: bool, kind: int) -> Layout:
    """Return the operations that a task has on a node of some class."""
    stages, parts = instance.cluster.stages, instance.micro_batches if trains else 1
    keys: list[tuple[int, int, int]] = []
    if trains or instance.generation is None:
        phases = (FORWARD, BACKWARD) if trains else (FORWARD,)
        keys += [(phase, s, m) for phase in phases for s in range(stages) for m in range(parts)]
    if trains:
        update = instance.costs.closing_s[kind]
        keys += [(UPDATE, s, 0) for s in range(stages) if update[s] > 0]
    columns = np.array(keys, dtype=np.int64).reshape(-1, 3).T
    return Layout(trains, kind, parts, *columns)


class Block(NamedTuple):
    """Some tasks of one layout.

    Parameters
    ----------
    layout : Layout
        What their operations are.
    tasks : ndarray of int, shape (n,)
        Which they are, in rising order.
    rows : ndarray of int, shape (n, W)
        Rows of their operations in the columns of the table.
    """

    layout: Layout
    tasks: IntArray
    rows: IntArray


class Entries(NamedTuple):
    """What one GPU runs, in columns of shape (n,).

    The task is `ITERATION` for an iteration of token generation.
    """

    start_s: FloatArray
    end_s: FloatArray
    task: IntArray
    phase: npt.NDArray[np.int8]

    def take(self, rows: IntArray) -> Entries:
        """Return some of the entries."""
        start_s, end_s, task, phase = self
        return Entries(start_s[rows], end_s[rows], task[rows], phase[rows])


@dataclass(frozen=True, eq=False)
class OperationTable:
    """The operations of a schedule in which every task has all of its own, and when it has them.

    Parameters
    ----------
    instance, schedule : Instance, Schedule
        What is checked.
    own : Operations
        Forwards, backwards and updates, in canonical order.
    extra : Operations
        Weight synchronisations and moves of activations, in canonical order.
    layouts : list of Layout
        The different ones, for training and inference tasks of every node class.
    which : ndarray of int, shape (T,)
        Number of every task's layout.
    first : ndarray of int, shape (T,)
        First row of every task in `own`.
    """

    instance: Instance
    schedule: Schedule
    own: Operations
    extra: Operations
    layouts: list[Layout]
    which: npt.NDArray[np.int32]
    first: IntArray

    def blocks(self, tasks: npt.NDArray[np.bool_] | None = None) -> Iterator[Block]:
        """Yield all tasks, or those of a mask, by layout and in blocks that fit a cache."""
        for number, layout in enumerate(self.layouts):
            mine = self.which == number
            members = np.flatnonzero(mine if tasks is None else mine & tasks)
            width = layout.phase.size
            step = max(BLOCK_ROWS // max(width, 1), 1)
            for begin in range(0, members.size if width else 0, step):
                some = members[begin : begin + step]
                yield Block(layout, some, self.first[some][:, None] + np.arange(width))

    @cached_property
    def by_node(self) -> list[IntArray]:
        """Tasks of every node, in rising order."""
        nodes = self.instance.cluster.nodes
        node = self.schedule.node.astype(np.uint16 if nodes < 1 << 16 else np.int64)
        order = np.argsort(node, kind="stable")
        bounds = np.searchsorted(node[order], np.arange(nodes + 1, dtype=node.dtype))
        return [order[a:b] for a, b in pairwise(bounds.tolist())]

    @cached_property
    def groups(self) -> list[list[tuple[Layout, IntArray]]]:
        """Tasks of every node by layout, those without operations left out."""
        found = []
        for tasks in self.by_node:
            number = self.which[tasks]
            here = [(layout, tasks[number == k]) for k, layout in enumerate(self.layouts)]
            found.append([(of, some) for of, some in here if some.size and of.phase.size])
        return found

    def iterations_on(self, node: int) -> NodeIterations | None:
        """Return a node's iterations of token generation; None where requests do not generate."""
        made = self.schedule.generated
        if made is None:
            return None
        rows = np.flatnonzero(made.iterations.stored("node") == node)
        return NodeIterations(made.iterations, rows)

    @cached_property
    def syncs(self) -> Operations:
        """Weight synchronisations."""
        return chosen(self.extra, np.flatnonzero(self.extra.phase == SYNC))

    @cached_property
    def moves(self) -> Operations:
        """Moves of activations to the host and back."""
        return chosen(self.extra, np.flatnonzero(self.extra.phase > SYNC))


class NodeIterations:
    """Iterations of token generation on one node.

    Parameters
    ----------
    iterations : Iterations
        Those of all nodes.
    rows : ndarray of int, shape (n,)
        Which of them.
    """

    def __init__(self, iterations: Iterations, rows: IntArray) -> None:
        self.all, self.rows = iterations, rows
        self.start_s: FloatArray = iterations.start_s[rows]
        self.end_s: FloatArray = iterations.end_s[rows]

    def stored(self, name: str) -> npt.NDArray[Any]:
        """Return one of the counts of `Iterations`, shape (n,), as narrow as it is stored."""
        return self.all.stored(name)[self.rows]


class Piece(NamedTuple):
    """Operations of one phase of tasks of one layout on a GPU.

    Parameters
    ----------
    layout : Layout
        What the tasks' operations are.
    tasks : ndarray of int, shape (n,)
        Whose they are, in rising order.
    phase : int
        Forward, backward or update.
    start_s, end_s : ndarray, shape (n, micro-batches)
        Seconds; one column for updates.
    """

    layout: Layout
    tasks: IntArray
    phase: int
    start_s: FloatArray
    end_s: FloatArray


class Gpu:
    """What one GPU of a table runs.

    Parameters
    ----------
    table : OperationTable
        All operations.
    node, stage : int
        Which GPU.
    iterations : NodeIterations or None
        The node's iterations of token generation.
    """

    def __init__(
        self, table: OperationTable, node: int, stage: int, iterations: NodeIterations | None
    ) -> None:
        self.table, self.node, self.stage = table, node, stage
        self.pieces: list[Piece] = []
        for layout, tasks in table.groups[node]:
            first = table.first[tasks]
            for phase in range(UPDATE + 1 if layout.trains else 1):
                places = np.flatnonzero((layout.phase == phase) & (layout.stage == stage))
                rows = first[:, None] + places
                start, end = table.own.start_s[rows], table.own.end_s[rows]
                self.pieces.append(Piece(layout, tasks, phase, start, end))
        self.iterations = iterations

    @cached_property
    def extras(self) -> Operations:
        """Its weight synchronisations and moves of activations."""
        extra = self.table.extra
        if not extra.rows:
            return extra
        here = (self.table.schedule.node[extra.task] == self.node) & (extra.stage == self.stage)
        return chosen(extra, np.flatnonzero(here))

    def spans(self) -> tuple[FloatArray, FloatArray]:
        """Return starts and ends of everything, in the order of `entries`."""
        start = [piece.start_s.reshape(-1) for piece in self.pieces] + [self.extras.start_s]
        end = [piece.end_s.reshape(-1) for piece in self.pieces] + [self.extras.end_s]
        if self.iterations is not None:
            start.append(self.iterations.start_s[:, self.stage])
            end.append(self.iterations.end_s[:, self.stage])
        return np.concatenate(start), np.concatenate(end)

    def entries(self) -> Entries:
        """Return everything, by start, then end, task and phase."""
        task = [np.repeat(piece.tasks, piece.start_s.shape[1]) for piece in self.pieces]
        phase = [np.full(piece.start_s.size, piece.phase, np.int8) for piece in self.pieces]
        task.append(self.extras.task.astype(np.int64))
        phase.append(self.extras.phase.astype(np.int8))
        if self.iterations is not None:
            task.append(np.full(self.iterations.rows.size, ITERATION))
            phase.append(np.full(self.iterations.rows.size, FORWARD, np.int8))
        found = Entries(*self.spans(), np.concatenate(task), np.concatenate(phase))
        order = np.lexsort((found.phase, found.task, found.end_s, found.start_s))
        return found.take(order)


def chosen(operations: Operations, rows: IntArray) -> Operations:
    """Return some rows, in canonical order."""
    columns = (getattr(operations, name)[rows] for name in Operations.__dataclass_fields__)
    return Operations.trusted(*columns)


def split(operations: Operations) -> tuple[Operations, Operations]:
    """Return forwards, backwards and updates, and the rest, both in canonical order."""
    beyond = operations.phase >= SYNC
    if not beyond.any():
        return operations, chosen(operations, np.empty(0, dtype=np.int64))
    return chosen(operations, np.flatnonzero(~beyond)), chosen(operations, np.flatnonzero(beyond))


def overlap_free(start_s: FloatArray, end_s: FloatArray) -> bool:
    """Whether spans surely do not overlap; spans within the tolerance count as overlapping.

    The n-th end lies before the start after the n-th exactly if no two spans overlap, so that
    starts and ends may be sorted apart.
    """
    took = end_s - start_s
    long = took > 0
    if not long.all():
        start_s, end_s, took = start_s[long], end_s[long], took[long]
    if start_s.size < 2:
        return True
    if took.min() <= 2 * TOLERANCE_S:
        return False
    return bool(np.all(_rising(start_s)[1:] >= _rising(end_s)[:-1] - TOLERANCE_S))


def _rising(times: FloatArray) -> FloatArray:
    """Return times in rising order; most are in it already, which is quicker seen than made."""
    return times if bool(np.all(times[1:] >= times[:-1])) else np.sort(times)
