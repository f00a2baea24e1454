"""What is read out of the books: the table of operations in canonical order, and iterations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lemix_opt.costs import Costs
from lemix_opt.engine.batches import COUNTS, Batches
from lemix_opt.engine.books import NONE, Books
from lemix_opt.engine.jit import called
from lemix_opt.generated import Generated, Iterations, trusted
from lemix_opt.instance import Instance
from lemix_opt.schedule import (
    BACKWARD,
    FORWARD,
    OFFLOAD,
    SYNC,
    UNFINISHED,
    UPDATE,
    Operations,
)


def rows_of(instance: Instance, costs: Costs) -> npt.NDArray[np.int64]:
    """Return the first row of every task in the table of operations, and the number of rows."""
    stages = instance.cluster.stages
    trained = 2 * stages * instance.micro_batches + stages * bool(np.any(costs.closing_s > 0))
    # Which tasks set off a synchronisation shows in the run only.
    trained += instance.weight_sync is not None
    trained += 2 * stages * _moves(instance)
    # Requests that generate tokens have no operations of their own.
    served = stages if instance.generation is None else 0
    counts = np.where(instance.workload.is_training, trained, served)
    return np.concatenate(([0], np.cumsum(counts)))


def _moves(instance: Instance) -> int:
    return int(instance.waiting.offload_bytes_per_s > 0)


def operations_of(instance: Instance, books: Books, rows: npt.NDArray[np.int64]) -> Operations:
    """Return the rows that ran."""
    syncs = int(instance.weight_sync is not None)
    stages, parts, moves = instance.cluster.stages, instance.micro_batches, _moves(instance)
    columns = columns_of(rows, books.node, stages, parts, syncs, moves)
    return rows_that_ran(columns, books.start_s[: rows[-1]], books.end_s[: rows[-1]])


def columns_of(
    rows: npt.NDArray[np.int64],
    node: npt.NDArray[np.int32],
    stages: int,
    micro_batches: int,
    syncs: int = 0,
    moves: int = 0,
) -> list[npt.NDArray[Any]]:
    """Return the integer columns of a table with the given first rows and nodes of tasks."""
    columns: list[npt.NDArray[Any]] = [
        np.empty(int(rows[-1]), dtype=dtype)
        for dtype in (np.int32, np.int8, np.int16, np.int16, np.int32)
    ]
    called(describe_rows, rows, node, stages, micro_batches, syncs, moves, *columns)
    return columns


def rows_that_ran(
    columns: list[npt.NDArray[Any]],
    start_s: npt.NDArray[np.float64],
    end_s: npt.NDArray[np.float64],
) -> Operations:
    """Return the table without the rows that have no start."""
    columns = [*columns, start_s, end_s]
    ran = ~np.isnan(start_s)
    if not ran.all():
        columns = [column[ran] for column in columns]
    return Operations.trusted(*columns)


def describe_rows(
    rows: Any,
    node_of: Any,
    stages: int,
    micro_batches: int,
    syncs: int,
    moves: int,
    task: Any,
    phase: Any,
    stage: Any,
    micro_batch: Any,
    node: Any,
) -> int:
    """Fill the integer columns: a task's operations in the order of their phases."""
    for i in range(rows.size - 1):
        row, after = rows[i], rows[i + 1]
        if row == after:
            continue
        trains = after - row > stages
        parts = micro_batches if trains else 1
        task[row:after] = i
        node[row:after] = node_of[i]
        for p in range(FORWARD, BACKWARD + 1 if trains else FORWARD + 1):
            for s in range(stages):
                for part in range(parts):
                    phase[row], stage[row], micro_batch[row] = p, s, part
                    row += 1
        if moves and trains:
            after -= 2 * stages
            for k in range(2 * stages):
                phase[after + k], stage[after + k] = OFFLOAD + k // stages, k % stages
                micro_batch[after + k] = 0
        if syncs and trains:
            after -= 1
            phase[after], stage[after], micro_batch[after] = SYNC, stages - 1, 0
        for s in range(after - row):
            phase[row], stage[row], micro_batch[row] = UPDATE, s, 0
            row += 1
    return 0


class IterationTable:
    """Iterations of all batches, as the kernel hands them over in order of their ends.

    The system charges dearly for memory that is written for the first time. Rows are written once,
    therefore, into room for as many as the requests done so far let expect, and every count is
    kept in the narrowest type that holds all its values.

    Parameters
    ----------
    tasks, stages : int
        Tasks T and pipeline stages S.
    """

    def __init__(self, tasks: int, stages: int) -> None:
        self.tasks = tasks
        self.rows = 0
        self.columns: list[npt.NDArray[Any]] = [
            *(np.empty((0, stages)) for _ in range(2)),
            *(np.empty(0, dtype=np.uint8) for _ in range(1 + COUNTS)),
        ]

    def take(self, batches: Batches, books: Books) -> None:
        """Copy what the kernel has kept, so that it may begin anew."""
        count = int(batches.filled[0])
        if count == 0:
            return
        batches.filled[0] = 0
        first, self.rows = self.rows, self.rows + count
        room = len(self.columns[0])
        if self.rows > room:
            room = self._room(books)
        blocks = (batches.table_start_s, batches.table_end_s, *batches.table)
        for k, block in enumerate(blocks):
            column, new = self.columns[k], block[:count]
            kind = column.dtype
            if new.dtype == np.int64:
                kind = np.promote_types(kind, np.min_scalar_type(int(new.max())))
            if len(column) != room or column.dtype != kind:
                self.columns[k] = np.empty((room, *new.shape[1:]), dtype=kind)
                self.columns[k][:first] = column[:first]
            self.columns[k][first : self.rows] = new

    def _room(self, books: Books) -> int:
        """Return how many rows to provide for."""
        ended = int(np.count_nonzero(books.end_state[: self.tasks] != UNFINISHED))
        expected = self.rows * self.tasks / max(ended, 1)
        # The first requests may not be like the rest.
        return int(min(max(1.1 * expected, 1.5 * self.rows), 32 * self.rows))

    def iterations(self) -> Iterations:
        """Return the whole table; nothing can be added then."""
        for column in self.columns:
            # In place: what is too much goes back to the system.
            column.resize((self.rows, *column.shape[1:]), refcheck=False)
        start_s, end_s, *counts = self.columns
        return Iterations.trusted(start_s, end_s, *counts)


def generated_of(batches: Batches, books: Books, table: IterationTable) -> Generated:
    """Return the tokens of all requests and the iterations, at the end of a run."""
    table.take(batches, books)
    columns = (batches.start_s, batches.first_s, batches.last_s, batches.made, batches.preemptions)
    made: Generated = trusted(Generated, *columns, table.iterations())
    return made


def lengths_of(instance: Instance, batches: Batches, node: int) -> tuple[int, ...]:
    """Return the tokens that every request in a node's running batch has now."""
    running = int(batches.running[node])
    if instance.generation is None or not running:
        return ()
    if instance.generation.rule == "reference":
        tasks = batches.member[node, :running].tolist()
    else:
        tasks = [int(batches.head[node])]
        while len(tasks) < running:
            tasks.append(int(batches.after[tasks[-1]]))
    # While a request decodes, only the iteration of its last token is known.
    later = batches.finish[tasks] - batches.number[node]
    decodes = batches.finish[tasks] != NONE
    made = np.where(decodes, batches.output[tasks] - later, batches.made[tasks])
    return tuple((instance.workload.prompt_tokens[tasks] + made).tolist())
