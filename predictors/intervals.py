"""Prediction intervals from residuals on held-out folds."""

from __future__ import annotations

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold

from lemix_opt.checks import FloatArray, floats

FOLDS = 5


def log_residuals(measured: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return log(measured / predicted) where both are positive, 0 elsewhere."""
    good = (measured > 0) & (predicted > 0)
    ratio = np.where(good, measured, 1.0) / np.where(good, predicted, 1.0)
    return np.asarray(np.log(ratio))


def held_out_residuals(model: object, X: FloatArray, y: FloatArray, seed: int = 0) -> FloatArray:
    """Log residuals of every row, predicted by a model fitted without its fold, shape (R,).

    Fewer than two rows have none.
    """
    if len(y) < 2:
        return np.empty(0)
    found = np.empty(len(y))
    folds = KFold(min(FOLDS, len(y)), shuffle=True, random_state=seed)
    for train, test in folds.split(X):
        fitted = clone(model).set_params(calibrate=False).fit(X[train], y[train])
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
