"""Gradient boosting of symmetric trees: few numbers, quick to evaluate, compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, IntArray, integers
from predictors.state import State

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Indices = np.ndarray[tuple[int, int], np.dtype[np.int64]]

_BINS = 32
_DEEPEST = 8
"""Levels of a tree, whose leaves are numbered in a byte."""
_TREE_ROWS = 1500
"""Rows one tree is fitted to at most."""
_BLOCK = 512
"""Rows whose answers the processor's cache holds."""


@dataclass(frozen=True, eq=False)
class SymmetricTrees:
    """A sum of trees that ask the same question at every node of a level.

    Parameters
    ----------
    edges : ndarray, shape (F, E)
        Ascending borders between the bins of every column; padded with infinity.
    columns, bins : ndarray of int, shape (M, D)
        Column that each level of each tree asks about, and the bin above which the answer is yes.
    leaves : ndarray, shape (M, 2^D)
        What is added by leaf; the first level's answer is the highest bit.
    """

    edges: FloatArray
    columns: Indices
    bins: Indices
    leaves: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """Sum of all trees, shape (R,).

        Beyond the range of what was fitted on it is that of the range's edge, since every border
        that is asked about had rows on both sides.
        """
        from lemix_opt.engine.jit import called

        # Many trees ask the same.
        asked, place = np.unique(self.columns * _BINS + self.bins, return_inverse=True)
        columns, bins = np.divmod(asked, _BINS)
        found = np.zeros(len(X))
        called(
            _add_trees,
            np.ascontiguousarray(X.T),
            columns,
            self.edges[columns, bins],
            place.reshape(self.columns.shape),
            self.leaves,
            np.empty((columns.size, _BLOCK), dtype=np.uint8),
            np.empty(_BLOCK, dtype=np.uint8),
            found,
        )
        return found

    def check_state(self, state: State, columns: int) -> None:
        """Check what a file says of trees over so many columns, which compiled code reads."""
        asked = state.array("columns", "i", (None, None))
        trees, depth = asked.shape
        # Without trees nothing is asked, whatever the columns were.
        borders = state.array("edges", "f", (columns if trees else None, _BINS - 1))
        if np.isnan(borders).any():
            raise state.refuse("edges", "NaN", "borders, padded with infinity")
        if not 0 <= depth <= _DEEPEST:
            raise state.refuse("columns", f"{depth} levels", f"at most {_DEEPEST}")
        integers(f"{state.where}.columns", asked, minimum=0, maximum=columns - 1)
        state.integers("bins", (trees, depth), 0, _BINS - 2)
        state.floats("leaves", (trees, 2**depth))
        state.end()


def _add_trees(
    rows: FloatArray,
    columns: IntArray,
    borders: FloatArray,
    asked: Indices,
    leaves: FloatArray,
    answers: Bytes,
    leaf: Bytes,
    found: FloatArray,
) -> None:
    """Add the leaves of all trees to `found`, a block of rows at a time (compiled).

    Question q is whether ``rows[columns[q]]`` lies above ``borders[q]``; level l of tree t asks
    number ``asked[t, l]``.
    """
    # Loops over one row of an array each, which is what the compiler makes vector code of.
    for start in range(0, found.size, leaf.size):
        total = found[start : start + leaf.size]
        size = total.size
        for q in range(columns.size):
            values, border, answer = rows[columns[q], start : start + size], borders[q], answers[q]
            for i in range(size):
                answer[i] = values[i] > border
        for t in range(len(asked)):
            leaf[:] = 0
            for level in range(asked.shape[1]):
                answer = answers[asked[t, level]]
                for i in range(size):
                    leaf[i] = (leaf[i] << 1) | answer[i]
            own = leaves[t]
            for i in range(size):
                total[i] += own[leaf[i]]


def boost(
    X: FloatArray,
    y: FloatArray,
    *,
    trees: int,
    depth: int,
    rate: float,
    ridge: float,
    least_rows: int,
    seed: int,
) -> SymmetricTrees:
    """Fit trees to y by gradient boosting of a Huber loss (its bend at the 90th percentile).

    Parameters
    ----------
    X : ndarray, shape (R, F)
        Columns.
    y : ndarray, shape (R,)
        Target around 0; what the trees do not know of is 0.
    trees, depth : int
        How many, and questions of each, at most 8.
    rate : float
        Part of every tree that is taken over.
    ridge : float
        Rows of target 0 that every leaf is averaged with.
    least_rows : int
        Rows that a question leaves on both sides at least.
    seed : int
        Draws the rows each tree is fitted to, at most half of them.
    """
    from lemix_opt.engine.jit import called

    rng = np.random.default_rng(seed)
    edges = _edges(X)
    # Columns of one value have no border to ask about.
    asked = np.flatnonzero(np.isfinite(edges[:, 0]))
    rows, width = len(X), asked.size
    binned = np.empty((width, rows), dtype=np.uint8)
    for at, f in enumerate(asked):
        binned[at] = np.searchsorted(edges[f], X[:, f], side="left")
    part = min(0.5, _TREE_ROWS / max(rows, 1))
    left = y.copy()
    columns, bins = (np.zeros((trees, depth), dtype=np.int64) for _ in range(2))
    leaves = np.zeros((trees, 2**depth))
    sums = np.empty((2, 2**depth, width, _BINS))
    leaf = np.empty(rows, dtype=np.uint8)
    count = 0
    while count < trees and width:
        bend = np.quantile(np.abs(left), 0.9)
        pull = np.clip(left, -bend, bend)
        chosen = np.flatnonzero(rng.random(rows) < part) if rows >= 4 * least_rows else ...
        tree = columns[count], bins[count], leaves[count]
        some = np.ascontiguousarray(binned[:, chosen]), pull[chosen]
        if not called(_grow, *some, float(ridge), least_rows, leaf, sums, *tree):
            break
        leaves[count] *= rate
        called(_take_off, binned, *tree, left)
        count += 1
    return SymmetricTrees(edges, asked[columns[:count]], bins[:count], leaves[:count])


def _edges(X: FloatArray) -> FloatArray:
    edges = np.full((X.shape[1], _BINS - 1), np.inf)
    for f in range(X.shape[1]):
        values = np.unique(X[:, f])
        middles = (values[1:] + values[:-1]) / 2
        if middles.size > _BINS - 1:
            cuts = np.quantile(X[:, f], np.linspace(0, 1, _BINS + 1)[1:-1])
            middles = np.unique(cuts)
        edges[f, : middles.size] = middles
    return edges


def _grow(
    binned: Bytes,
    pull: FloatArray,
    ridge: float,
    least_rows: int,
    leaf: Bytes,
    sums: FloatArray,
    columns: IntArray,
    bins: IntArray,
    leaves: FloatArray,
) -> bool:
    """Grow one tree level by level, into `columns`, `bins` and `leaves` (compiled).

    False when no question leaves enough rows on both sides. `leaf` and `sums` are room to work in.
    """
    width, rows = binned.shape
    leaf[:rows] = 0
    for level in range(columns.size):
        cells = 1 << level
        sums[:, :cells] = 0.0
        for column in range(width):
            for i in range(rows):
                sums[0, leaf[i], column, binned[column, i]] += pull[i]
                sums[1, leaf[i], column, binned[column, i]] += 1.0
        best, found = -np.inf, False
        for column in range(width):
            for cell in range(cells):
                for cut in range(1, _BINS):
                    sums[0, cell, column, cut] += sums[0, cell, column, cut - 1]
                    sums[1, cell, column, cut] += sums[1, cell, column, cut - 1]
            for cut in range(_BINS - 1):
                gain, below, above = 0.0, 0.0, 0.0
                for cell in range(cells):
                    low, count = sums[0, cell, column, cut], sums[1, cell, column, cut]
                    high = sums[0, cell, column, _BINS - 1] - low
                    rest = sums[1, cell, column, _BINS - 1] - count
                    gain += low * low / (count + ridge) + high * high / (rest + ridge)
                    below += count
                    above += rest
                if below >= least_rows and above >= least_rows and gain > best:
                    best, found = gain, True
                    columns[level], bins[level] = column, cut
        if not found:
            return False
        for i in range(rows):
            leaf[i] = (leaf[i] << 1) | (binned[columns[level], i] > bins[level])
    counts = sums[1, :, 0, 0]
    counts[:] = 0.0
    leaves[:] = 0.0
    for i in range(rows):
        leaves[leaf[i]] += pull[i]
        counts[leaf[i]] += 1.0
    for cell in range(leaves.size):
        leaves[cell] /= counts[cell] + ridge
    return True


def _take_off(
    binned: Bytes, columns: IntArray, bins: IntArray, leaves: FloatArray, left: FloatArray
) -> None:
    """Take a tree's leaves off what is left to fit (compiled)."""
    for i in range(left.size):
        leaf = 0
        for level in range(columns.size):
            leaf = (leaf << 1) | (binned[columns[level], i] > bins[level])
        left[i] -= leaves[leaf]
