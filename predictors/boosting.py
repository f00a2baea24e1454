"""Gradient boosting of symmetric trees: few numbers, quick to evaluate, nothing but numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray

_BINS = 32
_TREE_ROWS = 1500
"""Rows one tree is fitted to at most."""


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
    columns: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    bins: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    leaves: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """Sum of all trees, shape (R,).

        Beyond the range of what was fitted on it is that of the range's edge, since every border
        that is asked about had rows on both sides.
        """
        # Many trees ask the same; an answer is one byte per row.
        questions = np.unique(np.stack([self.columns.ravel(), self.bins.ravel()]), axis=1)
        yes = {(f, b): (X[:, f] > self.edges[f, b]).view(np.uint8) for f, b in questions.T.tolist()}
        found, added = np.zeros(len(X)), np.empty(len(X))
        leaf, place = np.empty(len(X), dtype=np.uint8), np.empty(len(X), dtype=np.intp)
        for columns, bins, leaves in zip(
            self.columns.tolist(), self.bins.tolist(), self.leaves, strict=True
        ):
            leaf.fill(0)
            for f, b in zip(columns, bins, strict=True):
                # Doubled by adding: numpy shifts one byte at a time.
                leaf += leaf
                leaf |= yes[f, b]
            np.copyto(place, leaf)
            found += np.take(leaves, place, out=added, mode="clip")
        return found


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
    rng = np.random.default_rng(seed)
    edges = _edges(X)
    # Columns of one value have no border to ask about.
    asked = np.flatnonzero(np.isfinite(edges[:, 0]))
    rows, width = len(X), asked.size
    binned = np.empty((width, rows), dtype=np.int64)
    for at, f in enumerate(asked):
        binned[at] = np.searchsorted(edges[f], X[:, f], side="left")
    part = min(0.5, _TREE_ROWS / max(rows, 1))
    places = binned + np.arange(width)[:, None] * _BINS
    left = y.copy()
    found: tuple[list[list[int]], list[list[int]], list[FloatArray]] = ([], [], [])
    for _ in range(trees if width else 0):
        bend = np.quantile(np.abs(left), 0.9)
        pull = np.clip(left, -bend, bend)
        chosen = np.flatnonzero(rng.random(rows) < part) if rows >= 4 * least_rows else None
        tree = _tree(binned, places, pull, chosen, depth, ridge, least_rows)
        if tree is None:
            break
        columns, bins, leaf, values = tree
        left -= rate * values[leaf]
        found[0].append(asked[columns].tolist())
        found[1].append(bins)
        found[2].append(rate * values)
    size = (len(found[0]), depth)
    return SymmetricTrees(
        edges,
        np.array(found[0], dtype=np.int64).reshape(size),
        np.array(found[1], dtype=np.int64).reshape(size),
        np.array(found[2]).reshape(len(found[2]), 2**depth),
    )


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


def _tree(
    binned: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    places: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    pull: FloatArray,
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]] | None,
    depth: int,
    ridge: float,
    least_rows: int,
) -> tuple[list[int], list[int], np.ndarray[tuple[int], np.dtype[np.int64]], FloatArray] | None:
    """Grow one tree level by level; None when no question leaves enough rows on both sides."""
    width = len(binned)
    inside, part = (places, pull) if chosen is None else (places[:, chosen], pull[chosen])
    leaf = np.zeros(part.size, dtype=np.int64)
    whole = np.zeros(pull.size, dtype=np.int64)
    repeated = np.broadcast_to(part, inside.shape).ravel()
    columns: list[int] = []
    bins: list[int] = []
    for level in range(depth):
        cells = 2**level
        at = (inside + leaf * (width * _BINS)).ravel()
        shape = (cells, width, _BINS)
        sums = np.bincount(at, repeated, cells * width * _BINS).reshape(shape).cumsum(axis=2)
        counts = np.bincount(at, minlength=cells * width * _BINS).reshape(shape).cumsum(axis=2)
        more, rest = sums[..., -1:] - sums, counts[..., -1:] - counts
        gain = (sums**2 / (counts + ridge) + more**2 / (rest + ridge)).sum(axis=0)
        allowed = (counts.sum(axis=0) >= least_rows) & (rest.sum(axis=0) >= least_rows)
        if not allowed.any():
            return None
        best = int(np.argmax(np.where(allowed, gain, -np.inf)))
        column, cut = divmod(best, _BINS)
        columns.append(column)
        bins.append(cut)
        own = inside[column] - column * _BINS
        leaf = leaf * 2 + (own > cut)
        whole = whole * 2 + (binned[column] > cut)
    total = np.bincount(leaf, part, 2**depth)
    number = np.bincount(leaf, minlength=2**depth)
    return columns, bins, whole, total / (number + ridge)
