"""Boosted trees as arrays say what scikit-learn's say, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor

from predictors.binary_trees import BinaryTrees


@pytest.mark.parametrize(("trees", "depth"), [(20, 3), (5, None), (4, 1)])
def test_they_predict_what_scikit_learn_does(trees: int, depth: int | None) -> None:
    rng = np.random.default_rng(trees)
    X = 10 * rng.normal(size=(300, 3))
    y = np.sin(X).sum(axis=1)
    grown = GradientBoostingRegressor(
        n_estimators=trees, max_depth=depth, learning_rate=0.07, random_state=0
    ).fit(X, y)
    found = BinaryTrees.of(grown, X)
    asked = np.concatenate([X, 20 * rng.normal(size=(500, 3))])
    assert np.array_equal(found.predict(asked), grown.predict(asked))
    assert found.predict(np.empty((0, 3))).shape == (0,)
