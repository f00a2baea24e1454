"""Which points of a new GPU are worth measuring: against brute force, and what they must cover."""

from __future__ import annotations

import numpy as np
import pytest

from lemix_opt.errors import FieldError
from predictors import design
from predictors.design import worth_measuring
from predictors.efficiencies import TermTree
from predictors.model_shapes import model_shape
from predictors.operation_fit import Levels
from predictors.operation_model import OperationTimeModel
from predictors.operation_terms import terms
from predictors.operations import column, operation_rows

SHAPE = model_shape("opt-350m")


def layers(gpu: str) -> np.ndarray:
    grid = np.array([(b, t) for b in (1, 8, 64) for t in (1, 2, 8)])
    return np.concatenate(
        [
            operation_rows(kind, SHAPE, gpu, rows=grid[:, 0], length=256, tensor=grid[:, 1])
            for kind in ("forward", "backward")
        ]
    )


@pytest.fixture(scope="module")
def physics() -> TermTree:
    X = layers("a100-40gb")
    return OperationTimeModel(trees=1, calibrate=False).fit(X, terms(X).sum(axis=1)).physics_


def test_the_points_leave_the_least_variance_one_by_one(physics: TermTree) -> None:
    X, point = layers("v100-16gb"), np.tile(np.arange(9), 2)
    told = design._told(physics, X)
    prior = told @ told.T

    def left(points: list[int]) -> float:
        """Mean variance after measuring some points, all at once, by the textbook."""
        own = np.flatnonzero(np.isin(point, points))
        noisy = prior[np.ix_(own, own)] + 0.01 * np.eye(own.size)
        return float(np.trace(prior - prior[:, own] @ np.linalg.inv(noisy) @ prior[own]))

    found = worth_measuring(physics, X, point, 9)
    assert sorted(found) == list(range(9))
    for at in range(4):
        best = min(left([*found[:at], other]) for other in range(9) if other not in found[:at])
        assert left(found[: at + 1]) == pytest.approx(best)
    few = set(column(X, "tensor")[np.isin(point, found[:3])])
    assert {2.0, 8.0} <= few, "sums differ by the number of GPUs, so that each has to be seen"


def test_shares_of_terms_are_derivatives(physics: TermTree) -> None:
    X = layers("a100-40gb")
    work, levels = terms(X), Levels(X)
    node = physics.find(levels)
    shares = physics.shares(work, node)
    assert shares.sum(axis=1) == pytest.approx(1.0)
    step = 1e-6
    for term in range(work.shape[1]):
        longer = work.copy()
        longer[:, term] *= 1 + step
        slope = np.log(physics.seconds(longer, node) / physics.seconds(work, node)) / step
        assert slope == pytest.approx(shares[:, term], abs=1e-4)
    assert np.all(np.isnan(physics.shares(work[:1], np.array([-1]))))


def test_what_cannot_be_weighed_is_refused(physics: TermTree) -> None:
    X, point = layers("v100-16gb"), np.tile(np.arange(9), 2)
    assert worth_measuring(physics, X, point, 0) == []
    with pytest.raises(FieldError, match="count: 10; expected at most 9"):
        worth_measuring(physics, X, point, 10)
    decode = operation_rows("decode", SHAPE, "v100-16gb", rows=1, length=[8, 9])
    with pytest.raises(FieldError, match="row 0: a kind not measured"):
        worth_measuring(physics, decode, np.arange(2), 1)
    many = np.repeat(X[:1], 4001, axis=0)
    with pytest.raises(FieldError, match="4001 operations"):
        worth_measuring(physics, many, np.zeros(4001, dtype=np.int64), 1)
