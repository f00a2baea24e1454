"""What sizes of operations were measured of each model on each GPU, and how far others lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from predictors.efficiencies import distinct_rows, find_rows
from predictors.operations import COLUMNS, tokens
from predictors.state import State

SIZES = (
    "length",
    "rows",
    "context",
    "pipeline",
    "data",
    "micro_batches",
    "sm_share",
    "hidden",
    "layers",
    "flops",
    "bandwidth",
)
"""Columns that may lie beyond what was measured."""

MOST_DOUBLINGS = 256.0
"""Of a size from 1 on: more than any has."""


def columns(X: FloatArray, names: tuple[str, ...]) -> FloatArray:
    """Return some columns of operations, shape (R, len(names))."""
    return np.asarray(X.T[[COLUMNS.index(name) for name in names]].T)


def log_sizes(X: FloatArray) -> FloatArray:
    """Return log2(1 + size) of tokens and `SIZES`, shape (R, 1 + len(SIZES))."""
    found = np.empty((1 + len(SIZES), len(X)))
    for own, size in zip(found, [tokens(X), *columns(X, SIZES).T], strict=True):
        # Most sizes are the same throughout, and logarithms take longer than to see that.
        if size.size and np.all(size == size[0]):
            own[:] = np.log2(1 + size[0])
        else:
            np.log2(1 + size, out=own)
    return found.T


@dataclass(frozen=True, eq=False)
class MeasuredRange:
    """Least and most of the sizes of every group.

    Parameters
    ----------
    keys : ndarray, shape (G, W)
        Columns that tell the groups apart.
    low, high : ndarray, shape (G + 1, F)
        Bounds of `log_sizes` by group, the last row for all groups together.
    """

    keys: FloatArray
    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, groups: FloatArray, sizes: FloatArray) -> MeasuredRange:
        """Bounds of measured rows: columns of their groups (R, W), and sizes (R, F)."""
        keys, place = distinct_rows(groups)
        low = np.full((len(keys) + 1, sizes.shape[1]), np.inf)
        high = -low
        np.minimum.at(low, place, sizes)
        np.maximum.at(high, place, sizes)
        low[-1], high[-1] = low[:-1].min(axis=0), high[:-1].max(axis=0)
        return cls(keys, low, high)

    def check_state(self, state: State, keys: FloatArray, sizes: int, most: float) -> None:
        """Check what a file says of groups with keys (G, W) and so many sizes up to `most`."""
        if not np.array_equal(state.floats("keys", keys.shape), keys):
            raise state.refuse("keys", "other groups", "those that have coefficients")
        shape = len(keys) + 1, sizes
        low = state.floats("low", shape, minimum=0, maximum=most)
        high = state.floats("high", shape, minimum=0, maximum=most)
        if np.any(low > high):
            raise state.refuse("low", "more than high", "at most high")
        state.end()

    def group(self, groups: FloatArray) -> IntArray:
        """Return the number of every row's group, −1 for an unknown one, shape (R,)."""
        return find_rows(self.keys, groups)

    def outside(self, sizes: FloatArray, group: IntArray) -> FloatArray:
        """Doublings outside the own group's bounds, those of all for −1, by size, shape (R, F)."""
        found = np.zeros(sizes.T.shape)
        if not len(sizes):
            return found.T
        for own, size, least, most in zip(found, sizes.T, self.low.T, self.high.T, strict=True):
            # Few columns hold anything outside.
            if size.min() < least.max() or size.max() > most.min():
                own += np.maximum(np.take(least, group, mode="wrap") - size, 0)
                own += np.maximum(size - np.take(most, group, mode="wrap"), 0)
        return found.T

    def nearest(self, X: FloatArray, group: IntArray) -> FloatArray:
        """Return the operations moved into the bounds of their groups, shape (R, len(COLUMNS)).

        Rows of the batch keep its tokens where these are within, since times change in steps of
        the tokens, however they are shaped.
        """
        low, high = 2.0 ** self.low[group] - 1, 2.0 ** self.high[group] - 1
        found = X.copy()
        for at, name in enumerate(SIZES, start=1):
            if name != "rows":
                own = found[:, COLUMNS.index(name)]
                np.clip(own, low[:, at], high[:, at], out=own)
        wanted = np.clip(tokens(X), low[:, 0], high[:, 0])
        found[:, COLUMNS.index("rows")] *= wanted / tokens(found)
        return found
