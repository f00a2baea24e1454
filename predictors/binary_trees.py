"""Boosted trees as plain arrays: what scikit-learn has grown, without its objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from predictors.state import State

Floats32 = np.ndarray[Any, np.dtype[np.float32]]

_MOST_NODES = 2**16


@dataclass(frozen=True, eq=False)
class BinaryTrees:
    """A constant and a sum of M trees of up to N nodes each.

    A saved model that holds these and no object of scikit-learn's can be checked before it is
    asked, and does not depend on the version of scikit-learn it was fitted with.

    Parameters
    ----------
    start : float
        The constant.
    columns : ndarray of int, shape (M, N)
        Column that every node asks about.
    thresholds : ndarray, shape (M, N)
        Up to which the answer is the first child.
    children : ndarray of int, shape (M, N, 2)
        Nodes that follow, a leaf's own number for a leaf.
    values : ndarray, shape (M, N)
        What is added by leaf.
    """

    start: float
    columns: IntArray
    thresholds: FloatArray
    children: IntArray
    values: FloatArray

    @classmethod
    def of(cls, fitted: Any, X: FloatArray) -> BinaryTrees:
        """Take over a fitted `sklearn.ensemble.GradientBoostingRegressor`.

        Parameters
        ----------
        fitted : GradientBoostingRegressor
            Of one output.
        X : ndarray, shape (R, F)
            A row at least of what it was fitted on.
        """
        trees = [tree.tree_ for tree in fitted.estimators_[:, 0]]
        size = len(trees), max(tree.node_count for tree in trees)
        columns, thresholds, values = np.zeros(size, np.int64), np.zeros(size), np.zeros(size)
        own = np.broadcast_to(np.arange(size[1]), size)
        children = np.stack([own, own], axis=2)
        for at, tree in enumerate(trees):
            nodes = slice(tree.node_count)
            inner = tree.children_left >= 0
            columns[at, nodes] = np.where(inner, tree.feature, 0)
            thresholds[at, nodes] = np.where(inner, tree.threshold, 0.0)
            children[at, nodes][inner] = np.column_stack(
                [tree.children_left[inner], tree.children_right[inner]]
            )
            values[at, nodes] = fitted.learning_rate * tree.value[:, 0, 0]
        start = float(fitted.init_.predict(X[:1])[0])
        return cls(start, columns, thresholds, children, values)

    def predict(self, X: FloatArray) -> FloatArray:
        """Sum of all trees, shape (R,), the same as scikit-learn's to the last bit."""
        from lemix_opt.engine.jit import called

        found = np.full(len(X), self.start)
        # scikit-learn compares columns of 32 bits.
        rows = np.ascontiguousarray(X, dtype=np.float32)
        parts = self.columns, self.thresholds, self.children, self.values
        called(_add_leaves, rows, *map(np.ascontiguousarray, parts), found)
        return found

    def check_state(self, state: State, columns: int) -> None:
        """Check what a file says of trees over so many columns."""
        state.number("start", minimum=-np.inf)
        asked = state.integers("columns", (None, None), 0, columns - 1)
        count, nodes = asked.shape
        if not 1 <= nodes <= _MOST_NODES:
            raise state.refuse("columns", f"{nodes} nodes", f"1 to {_MOST_NODES} of a tree")
        state.floats("thresholds", (count, nodes))
        children = state.integers("children", (count, nodes, 2), 0, nodes - 1)
        # No way leads back, so that every row comes to a leaf: one that follows itself.
        if np.any(children < np.arange(nodes)[:, None]):
            raise state.refuse("children", "a node before its parent", "nodes that lie behind it")
        state.floats("values", (count, nodes))
        state.end()


def _add_leaves(
    rows: Floats32,
    columns: IntArray,
    thresholds: FloatArray,
    children: IntArray,
    values: FloatArray,
    found: FloatArray,
) -> None:
    """Add the leaf of every tree to `found`, row by row (compiled)."""
    for row in range(found.size):
        for tree in range(len(columns)):
            node, after = -1, 0
            while after != node:
                node = after
                above = rows[row, columns[tree, node]] > thresholds[tree, node]
                after = children[tree, node, 1 if above else 0]
            found[row] += values[tree, node]
