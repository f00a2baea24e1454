"""Columns and rows of a mixed-integer program, with a limit on its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import UnsupportedError

NOTHING = -1
"""In place of a column: the constant 0."""


@dataclass(frozen=True)
class Step:
    """A step function of time: 0 before tick `begin`, `after` from tick `end` on.

    In between, tick t has the column ``first + t − begin``. It is 1 from some tick on, so that the
    number of its zeros tells when.

    Parameters
    ----------
    first, begin, end : int
        First column; the ticks that have one.
    after : int
        Column of the value after them.
    """

    first: int
    begin: int
    end: int
    after: int

    def at(self, ticks: IntArray) -> IntArray:
        """Return the column that tells the value at each tick; `NOTHING` for 0."""
        inside = self.first + ticks - self.begin
        late = np.where(ticks >= self.end, self.after, inside)
        return np.where(ticks < self.begin, NOTHING, late)

    def columns(self) -> IntArray:
        """Return the columns of its own."""
        return np.arange(self.first, self.first + self.end - self.begin)


NEVER = Step(0, 2**62, 2**62, NOTHING)
"""The step that is 0 at all times."""


class Program:
    """A program under construction; all columns are whole numbers.

    Column `one` is fixed to 1, so that constants need no treatment of their own.

    Parameters
    ----------
    limit : int
        Most nonzeros, and most columns, before `UnsupportedError` is raised.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.columns = 0
        self.nonzeros = 0
        self._bounds: list[tuple[int, float, float]] = []
        self._entries: list[tuple[IntArray, IntArray, FloatArray]] = []
        self._sides: list[tuple[FloatArray, FloatArray]] = []
        self._rows = 0
        self.one = self.add(lower=1.0)

    def add(self, count: int = 1, *, lower: float = 0.0, upper: float = 1.0) -> int:
        """Add columns within the bounds; return the first one's index."""
        first = self.columns
        self.columns += count
        self._check()
        self._bounds.append((count, lower, upper))
        return first

    def step(self, begin: int, end: int, after: int) -> Step:
        """Add a step function with a column for every tick from `begin` to `end` − 1."""
        return Step(self.add(max(0, end - begin)), begin, max(begin, end), after)

    def rows(
        self,
        lower: float | FloatArray,
        upper: float | FloatArray,
        *terms: tuple[float, IntArray],
    ) -> None:
        """Add rows that differ in their columns only.

        Parameters
        ----------
        lower, upper : float or ndarray of shape (R,)
            Bounds of Σ coefficient × column.
        *terms : (coefficient, ndarray of int of shape (R,))
            Columns by row; `NOTHING` leaves the term out of a row.
        """
        count = len(terms[0][1])
        index = self._rows + np.arange(count)
        for factor, columns in terms:
            here = columns != NOTHING
            if factor:
                self._enter(index[here], columns[here], np.full(int(here.sum()), float(factor)))
        self._close(count, lower, upper)

    def row(self, lower: float, upper: float, *terms: tuple[float | FloatArray, IntArray]) -> None:
        """Add one row out of arrays of columns, each with one factor or a factor per column."""
        for factor, columns in terms:
            here = columns != NOTHING
            values = np.broadcast_to(np.asarray(factor, dtype=np.float64), columns.shape)[here]
            index = np.full(int(here.sum()), self._rows, dtype=np.int64)
            self._enter(index, columns[here], values)
        self._close(1, lower, upper)

    def _enter(self, index: IntArray, columns: IntArray, values: FloatArray) -> None:
        self.nonzeros += len(index)
        self._check()
        self._entries.append((index, columns, values))

    def _close(self, count: int, lower: float | FloatArray, upper: float | FloatArray) -> None:
        self._rows += count
        shape = (count,)
        self._sides.append((np.broadcast_to(lower, shape), np.broadcast_to(upper, shape)))

    def _check(self) -> None:
        if max(self.columns, self.nonzeros) > self.limit:
            raise UnsupportedError(
                f"the time-indexed program has at least {self.columns:,} variables "
                f"and {self.nonzeros:,} nonzeros",
                where="max_nonzeros",
                expected=f"at most {self.limit:,}",
                hint="Use a longer tick_s, give a good `initial` to narrow the windows, "
                "or use 'cpsat', whose size does not grow with the number of ticks",
            )

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return lower and upper bounds of the columns, each of shape (columns,)."""
        counts = [count for count, _, _ in self._bounds]
        lower = np.repeat([low for _, low, _ in self._bounds], counts)
        return lower, np.repeat([high for _, _, high in self._bounds], counts)

    def matrix(self) -> tuple[Any, FloatArray, FloatArray]:
        """Return the rows as a sparse array (rows, columns) with their lower and upper sides."""
        index, columns, values = (
            np.concatenate([entry[k] for entry in self._entries] or [np.zeros(0)]) for k in range(3)
        )
        shape = (self._rows, self.columns)
        table = coo_array((values, (index.astype(int), columns.astype(int))), shape=shape).tocsr()
        # A step that is over on both ends of an interval cancels out.
        table.eliminate_zeros()
        lower, upper = (
            np.concatenate([side[k] for side in self._sides] or [np.zeros(0)]) for k in range(2)
        )
        return table, lower, upper
