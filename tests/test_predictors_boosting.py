"""Compiled trees against obvious ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.boosting import SymmetricTrees, boost


def walked(trees: SymmetricTrees, row: np.ndarray) -> float:
    """Ask a row the questions of one tree after another."""
    total = 0.0
    for columns, bins, leaves in zip(trees.columns, trees.bins, trees.leaves, strict=True):
        answers = [row[f] > trees.edges[f, b] for f, b in zip(columns, bins, strict=True)]
        total += leaves[int("".join(str(int(a)) for a in answers), 2)]
    return total


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 6, (rows, 3)).astype(float)
    return X, np.where(X[:, 1] > 2, 0.5, -0.5) + 0.1 * X[:, 2] + rng.normal(0, 0.01, rows)


def fitted(X: np.ndarray, y: np.ndarray, **changed: float) -> SymmetricTrees:
    settings = {"trees": 20, "depth": 3, "rate": 0.3, "ridge": 0.3, "least_rows": 2, "seed": 0}
    return boost(X, y, **{**settings, **changed})  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(0, 1500))
def test_a_sum_of_trees_is_what_walking_them_gives(seed: int, rows: int) -> None:
    trees = fitted(*drawn(60, seed))
    asked = np.random.default_rng(seed).uniform(-3, 9, (rows, 3))
    found = trees.predict(asked)
    some = range(0, rows, 97)
    assert found[::97] == pytest.approx([walked(trees, asked[i]) for i in some])
    # Beyond what was fitted on, the edge's value goes on.
    assert np.array_equal(found, trees.predict(np.clip(asked, 0, 5)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100))
def test_the_first_question_leaves_the_least_squared_error(seed: int) -> None:
    X, y = drawn(7, seed)
    # Fewer than four times `least_rows`: the tree sees all rows.
    trees = fitted(X, y, trees=1, depth=1, rate=1.0)
    pull = np.clip(y, *(np.quantile(np.abs(y), 0.9) * np.array([-1, 1])))
    gains = {}
    for f, edge in itertools.product(range(3), np.arange(0.5, 5)):
        yes = X[:, f] > edge
        if 2 <= yes.sum() <= 5:
            sides = pull[yes], pull[~yes]
            gains[f, edge] = sum(side.sum() ** 2 / (side.size + 0.3) for side in sides)
    if not gains:
        assert not len(trees.leaves)
        return
    f, b = trees.columns[0, 0], trees.bins[0, 0]
    yes = X[:, f] > trees.edges[f, b]
    sides = pull[~yes], pull[yes]
    assert sum(s.sum() ** 2 / (s.size + 0.3) for s in sides) == pytest.approx(max(gains.values()))
    assert trees.leaves[0] == pytest.approx([s.sum() / (s.size + 0.3) for s in sides])


def test_it_learns_and_says_nothing_where_there_is_nothing_to_ask() -> None:
    X, y = drawn(200, 0)
    trees = fitted(X, y, trees=100)
    assert np.abs(y - trees.predict(X)).mean() < 0.03
    assert np.array_equal(fitted(np.ones((9, 2)), np.ones(9)).predict(np.ones((4, 2))), np.zeros(4))
    assert np.array_equal(fitted(X[:0], y[:0]).predict(X), np.zeros(200))
