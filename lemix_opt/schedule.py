"""The answer: node of every task, start and end of every operation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray, arrays_equal, floats, integers
from lemix_opt.errors import FieldError
from lemix_opt.generated import Generated

PHASES = ("forward", "backward", "update", "sync", "offload", "reload")
FORWARD, BACKWARD, UPDATE, SYNC, OFFLOAD, RELOAD = range(len(PHASES))
END_STATES = ("done", "deferred", "dropped", "unfinished")
DONE, DEFERRED, DROPPED, UNFINISHED = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Operations:
    """One row per executed operation; all columns have shape (R,).

    Parameters
    ----------
    task, phase, stage, micro_batch, node : array_like of int
        Phase is 0 forward, 1 backward, 2 update, 3 weight synchronisation that the task set off,
        4 and 5 its activations on their way to the host's memory and back.
    start_s, end_s : array_like
        Seconds; an end is never before its start.
    """

    task: IntArray
    phase: IntArray
    stage: IntArray
    micro_batch: IntArray
    node: IntArray
    start_s: FloatArray
    end_s: FloatArray

    def __post_init__(self) -> None:
        task = integers("operations.task", self.task, minimum=0)
        if task.ndim != 1:
            raise FieldError(
                f"shape {task.shape}", where="operations.task", expected="one dimension"
            )
        shape = task.shape
        start = floats("operations.start_s", self.start_s, shape, minimum=0)
        checked: dict[str, IntArray | FloatArray] = {
            "task": task,
            "phase": integers("operations.phase", self.phase, shape, minimum=0, maximum=RELOAD),
            "stage": integers("operations.stage", self.stage, shape, minimum=0),
            "micro_batch": integers("operations.micro_batch", self.micro_batch, shape, minimum=0),
            "node": integers("operations.node", self.node, shape, minimum=0),
            "start_s": start,
            "end_s": floats("operations.end_s", self.end_s, shape, minimum=0),
        }
        for name, array in checked.items():
            object.__setattr__(self, name, array)
        back = np.flatnonzero(self.end_s < start)
        if back.size:
            row = int(back[0])
            raise FieldError(
                f"end {self.end_s[row]:g} s",
                where=f"operations.end_s[{row}]",
                expected=f"at least its start, {start[row]:g} s",
            )

    @property
    def rows(self) -> int:
        """Number of operations R."""
        return int(self.task.shape[0])

    def take(self, rows: IntArray) -> Operations:
        """Return the given rows, in that order."""
        return Operations(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def trusted(cls, *columns: npt.NDArray[Any]) -> Operations:
        """Wrap columns that are valid and in canonical order, without a check or a copy.

        For the engine, whose tables are large; their integers may be narrower than 64 bits.
        """
        rows = object.__new__(cls)
        for field, column in zip(fields(cls), columns, strict=True):
            column.flags.writeable = False
            object.__setattr__(rows, field.name, column)
        object.__setattr__(rows, "_canonical", True)
        return rows

    def sorted(self) -> Operations:
        """Return the rows in the canonical order: task, phase, stage, micro-batch."""
        if getattr(self, "_canonical", False) or self._in_order():
            return self
        order = np.lexsort((self.micro_batch, self.stage, self.phase, self.task))
        return self.take(order)

    def _in_order(self) -> bool:
        """Whether no row comes before the one ahead of it; sorting takes ten times as long."""
        ahead = np.zeros(max(self.rows - 1, 0), dtype=bool)
        for column in (self.micro_batch, self.stage, self.phase, self.task):
            before, after = column[:-1], column[1:]
            ahead &= before == after
            ahead |= before > after
        return not ahead.any()

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def _places(given: Any, tasks: int) -> tuple[tuple[int, float], ...]:
    """Return checked pairs of task and seconds."""
    pairs = [tuple(pair) for pair in given]
    if any(len(pair) != 2 for pair in pairs):
        raise FieldError(f"{pairs!r:.60}", where="gave_way", expected="pairs of a task and seconds")
    who = integers("gave_way.task", [pair[0] for pair in pairs], minimum=0, maximum=tasks - 1)
    when = floats("gave_way.time_s", [pair[1] for pair in pairs], minimum=0)
    return tuple(zip(who.tolist(), when.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Placement and times of all tasks.

    Parameters
    ----------
    node : array_like of int, shape (T,)
        Node of every task, −1 for one that was never placed.
    operations : Operations
        Every executed operation, in the canonical order of `Operations.sorted`.
    end_state : array_like of int, shape (T,)
        0 done, 1 deferred, 2 dropped, 3 unfinished.
    release_s : array_like, shape (T,)
        Effective release: own release or closed-loop event, whichever is later; infinity for a
        task that was never released.
    out_of_memory : tuple of (task, stage, node, time_s), default ()
        Events in which a task could not get its memory and was dropped.
    generated : Generated, optional
        Tokens of the requests and iterations of the running batches, where requests generate;
        they have no operations then.
    gave_way : tuple of (task, time_s), default ()
        Training tasks that, while they were deferred, let the next one of the closed loop go ahead
        (`Defer.keeps_place`), and when. The next one's release follows that moment then.
    """

    node: IntArray
    operations: Operations
    end_state: IntArray
    release_s: FloatArray
    out_of_memory: tuple[tuple[int, int, int, float], ...] = ()
    generated: Generated | None = None
    gave_way: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        node = integers("node", self.node, minimum=-1)
        if node.ndim != 1:
            raise FieldError(f"shape {node.shape}", where="node", expected="one dimension")
        shape = node.shape
        object.__setattr__(self, "node", node)
        object.__setattr__(
            self, "end_state", integers("end_state", self.end_state, shape, minimum=0, maximum=3)
        )
        object.__setattr__(
            self, "release_s", floats("release_s", self.release_s, shape, minimum=0, infinite=True)
        )
        if self.operations.rows and int(np.max(self.operations.task)) >= node.shape[0]:
            raise FieldError(
                f"task {int(np.max(self.operations.task))}",
                where="operations.task",
                expected=f"ids below {node.shape[0]}",
            )
        object.__setattr__(self, "operations", self.operations.sorted())
        object.__setattr__(self, "gave_way", _places(self.gave_way, node.shape[0]))
        if self.generated is not None and self.generated.tokens.shape != shape:
            raise FieldError(
                f"shape {self.generated.tokens.shape}",
                where="generated.tokens",
                expected=f"shape {shape}",
            )

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return int(self.node.shape[0])

    @property
    def complete(self) -> bool:
        """Whether every task is done."""
        return bool(np.all(self.end_state == DONE))

    def start_s(self) -> FloatArray:
        """First start of every task, shape (T,); infinity where nothing ran."""
        first = self._by_task(np.minimum, self.operations.start_s, np.inf)
        return first if self.generated is None else np.minimum(first, self.generated.start_s)

    def end_s(self) -> FloatArray:
        """Last end of every done task, shape (T,); infinity for the others.

        A weight synchronisation that a task set off is not part of it.
        """
        return self._end_s.copy()

    @cached_property
    def _end_s(self) -> FloatArray:
        # Looked up by every metric, and a pass over all operations.
        rows = self.operations
        own = rows.phase != SYNC
        ends_s = rows.end_s if own.all() else np.where(own, rows.end_s, -np.inf)
        last = self._by_task(np.maximum, ends_s, -np.inf)
        if self.generated is not None:
            tokens = self.generated.last_token_s
            last = np.maximum(last, np.where(np.isinf(tokens), -np.inf, tokens))
        last[self.end_state != DONE] = np.inf
        return last

    def _by_task(self, extreme: np.ufunc, values: FloatArray, without: float) -> FloatArray:
        """Return the least or largest value of every task's operations, shape (T,)."""
        found, task = np.full(self.tasks, without), self.operations.task
        if task.size:
            # A task's operations follow each other.
            first = np.concatenate(([0], np.flatnonzero(task[1:] != task[:-1]) + 1))
            found[task[first]] = extreme.reduceat(values, first)
        return found

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]
