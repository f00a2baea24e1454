"""Prediction intervals from residuals on held-out folds."""

from __future__ import annotations

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold

from lemix_opt.checks import FloatArray, IntArray, floats

FOLDS = 5


def points(X: FloatArray) -> IntArray:
    """Return the number of the distinct point that every row of X is a run of, shape (R,)."""
    return np.asarray(np.unique(X, axis=0, return_inverse=True)[1]).reshape(-1)


def log_residuals(measured: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return log(measured / predicted) where both are positive, 0 elsewhere."""
    good = (measured > 0) & (predicted > 0)
    ratio = np.where(good, measured, 1.0) / np.where(good, predicted, 1.0)
    return np.asarray(np.log(ratio))


def held_out_residuals(model: object, X: FloatArray, y: FloatArray, seed: int = 0) -> FloatArray:
    """Log residuals of every row, predicted by a model fitted without its fold, shape (R,).

    Repeats of one point share a fold. Fewer than two points have no residuals.
    """
    point = points(X)
    distinct = int(np.max(point)) + 1
    if distinct < 2:
        return np.empty(0)
    found = np.empty(len(y))
    folds = KFold(min(FOLDS, distinct), shuffle=True, random_state=seed)
    for _, held in folds.split(np.arange(distinct)):
        test = np.isin(point, held)
        fitted = clone(model).set_params(calibrate=False).fit(X[~test], y[~test])
        found[test] = log_residuals(y[test], fitted.predict(X[test]))
    return found


def conformal_factor(residuals: FloatArray, coverage: float) -> float:
    """Factor f so that predicted/f … predicted·f covers a new row with the asked probability.

    Cross-conformal: the ⌈(R+1)·coverage⌉-th smallest absolute log residual (Vovk 2015); infinite
    when there are too few rows for the coverage. Holds for rows like those fitted on, not beyond
    their range.
    """
    coverage = float(floats("coverage", coverage, (), above=0, maximum=1))
    rank = int(np.ceil((len(residuals) + 1) * coverage))
    if rank > len(residuals):
        return float("inf")
    return float(np.exp(np.sort(np.abs(residuals))[rank - 1]))
