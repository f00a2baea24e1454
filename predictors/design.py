"""Which operations of a new GPU type are worth measuring: those that tell most about the rest.

A Bayesian design of experiments (Chaloner and Verdinelli 1995, A-optimality): near what is known
the log of an operation's seconds is linear in the logs of the coefficients of its terms, these are
uncertain, and a measurement takes away what it says about them. Points are taken one by one, each
time the one that leaves the least mean variance of all. Nothing measured of the type is needed.
"""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import FloatArray, IntArray, whole
from lemix_opt.errors import FieldError
from predictors.efficiencies import TermTree
from predictors.operation_fit import PARTIAL, Levels
from predictors.operation_terms import terms
from predictors.operations import COLUMNS

_SPREAD = 1.0
"""Standard deviation of the log of a new type's coefficients, and again of those that differ by
the number of its GPUs: a factor of three, as between the types of the public tables."""
_KIND_SPREAD = 0.3
"""The same for how kinds of operation differ on a type."""
_NOISE = 0.1
"""What a measurement says no better than: the scatter of runs, and what terms leave out."""
_MOST_ROWS = 4000


def worth_measuring(physics: TermTree, X: FloatArray, point: IntArray, count: int) -> list[int]:
    """Return the points to measure first, the most telling one first.

    Parameters
    ----------
    physics : TermTree
        Of a model fitted to other GPU types (`OperationTimeModel.physics_`).
    X : ndarray, shape (R, len(COLUMNS))
        All operations that matter, see `predictors.operations`; at most 4,000.
    point : ndarray of int, shape (R,)
        Number of the point of each, from 0: operations that are measured together.
    count : int
        How many points, at most as many as there are.

    Raises
    ------
    FieldError
        For more operations, a count out of range, or a kind of operation that the model does not
        know.
    """
    if len(X) > _MOST_ROWS:
        raise FieldError(f"{len(X)} operations", where="X", expected=f"at most {_MOST_ROWS}")
    distinct = int(point.max()) + 1 if len(X) else 0
    if whole("count", count, minimum=0) > distinct:
        raise FieldError(str(count), where="count", expected=f"at most {distinct}, all points")
    told = _told(physics, X)
    covariance = told @ told.T
    found: list[int] = []
    for _ in range(count):
        gains = [
            -np.inf if at in found else _gain(covariance, np.flatnonzero(point == at))
            for at in range(distinct)
        ]
        found.append(int(np.argmax(gains)))
        own = np.flatnonzero(point == found[-1])
        covariance = covariance - covariance[:, own] @ _weights(covariance, own)
    return found


def _told(physics: TermTree, X: FloatArray) -> FloatArray:
    """Change of log seconds by a standard deviation of each unknown, shape (R, unknowns)."""
    work, levels = terms(X), Levels(X)
    shares = physics.shares(work, physics.find(levels))
    bad = ~np.all(np.isfinite(shares), axis=1)
    if bad.any():
        where = f"X, row {int(np.argmax(bad))}"
        raise FieldError("a kind not measured", where=where, expected="one the model was fitted to")
    kind, own = X[:, COLUMNS.index("kind")], [_SPREAD * shares]
    own += [_KIND_SPREAD * shares * (kind == each)[:, None] for each in np.unique(kind)]
    for depth, differs in PARTIAL.items():
        part = np.unique(levels[depth], axis=0, return_inverse=True)[1].reshape(-1)
        for each in range(int(part.max(initial=-1)) + 1):
            own.append(_SPREAD * shares[:, differs] * (part == each)[:, None])
    return np.concatenate(own, axis=1)


def _weights(covariance: FloatArray, own: IntArray) -> FloatArray:
    noisy = covariance[np.ix_(own, own)] + _NOISE**2 * np.eye(own.size)
    return np.asarray(np.linalg.solve(noisy, covariance[own]))


def _gain(covariance: FloatArray, own: IntArray) -> float:
    """Sum of the variances that measuring some rows takes away."""
    return float(np.sum(covariance[own] * _weights(covariance, own)))
