"""Errors of a model on points it was not fitted on, by how they were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.base import clone

from lemix_opt.checks import BoolArray, FloatArray
from predictors.intervals import points

SEEDS = 3


@dataclass(frozen=True)
class SplitError:
    """Error of one way to hold points out.

    Parameters
    ----------
    split : str
        Which points were held out.
    fitted, held_out : int
        Rows fitted on and rows predicted; repeats of one point are never on both sides.
    mape_pct : float
        Mean absolute percentage error on the held-out rows.
    repetitions : int
        Over how many random splits it is the mean.
    """

    split: str
    fitted: int
    held_out: int
    mape_pct: float
    repetitions: int


def mape_pct(measured: FloatArray, predicted: FloatArray) -> float:
    """Mean of |predicted − measured| / measured, in percent."""
    return float(100 * np.mean(np.abs(predicted - measured) / measured))


def split_errors(
    model: object, X: FloatArray, y: FloatArray, longest: float, most_tokens: float
) -> list[SplitError]:
    """Hold out a random fifth of the points, the longest lengths, and the most tokens.

    Parameters
    ----------
    model : estimator
        Cloned for every fit.
    X : ndarray, shape (R, 2)
        Batch rows and length in tokens.
    y : ndarray, shape (R,)
        Measured seconds.
    longest, most_tokens : float
        Limits of what the extrapolating splits are fitted on.

    Returns
    -------
    list of SplitError
        A split that leaves fewer than three rows to fit on or none to predict is left out.
    """
    splits = {
        "random fifth": random_fifths(X),
        f"length > {longest:g}": [X[:, -1] <= longest],
        f"tokens > {most_tokens:g}": [np.prod(X, axis=1) <= most_tokens],
    }
    return held_out_errors(model, X, y, splits)


def random_fifths(X: FloatArray) -> list[BoolArray]:
    """Return masks of the rows to fit on, one per seed, without a random fifth of the points."""
    point = points(X)
    distinct = int(np.max(point)) + 1
    cut = int(0.8 * distinct)
    orders = [np.random.default_rng(seed).permutation(distinct) for seed in range(SEEDS)]
    return [np.isin(point, order[:cut]) for order in orders]


def held_out_errors(
    model: object, X: FloatArray, y: FloatArray, splits: Mapping[str, Sequence[BoolArray]]
) -> list[SplitError]:
    """Fit without some rows and predict them.

    Parameters
    ----------
    model : estimator
        Cloned for every fit.
    X : ndarray, shape (R, F)
        Points.
    y : ndarray, shape (R,)
        Measured values.
    splits : mapping of str to sequence of ndarray of bool, shape (R,)
        Rows to fit on by the split's name; the error is the mean over a split's masks.

    Returns
    -------
    list of SplitError
        A split that leaves fewer than three rows to fit on or none to predict is left out.
    """
    found = []
    for name, masks in splits.items():
        if min(int(m.sum()) for m in masks) < 3 or min(int((~m).sum()) for m in masks) < 1:
            continue
        errors = [_error(model, X, y, mask) for mask in masks]
        fitted = int(masks[0].sum())
        mean = float(np.mean(errors))
        found.append(SplitError(name, fitted, len(y) - fitted, mean, len(masks)))
    return found


def _error(model: object, X: FloatArray, y: FloatArray, fit_on: BoolArray) -> float:
    fitted = clone(model).set_params(calibrate=False).fit(X[fit_on], y[fit_on])
    return mape_pct(y[~fit_on], fitted.predict(X[~fit_on]))
