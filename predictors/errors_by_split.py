"""Errors of a model on points it was not fitted on, by how they were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from lemix_opt.checks import BoolArray, FloatArray
from predictors.intervals import points
from predictors.operations import column, tokens

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
    covered_pct : float
        Share of the held-out rows that lie in their interval, in percent; NaN where intervals were
        not asked for.
    """

    split: str
    fitted: int
    held_out: int
    mape_pct: float
    repetitions: int
    covered_pct: float = float("nan")


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
    return [_random_fifth(X, np.random.default_rng(seed)) for seed in range(SEEDS)]


def _random_fifth(X: FloatArray, rng: np.random.Generator) -> BoolArray:
    point = points(X)
    order = rng.permutation(int(np.max(point)) + 1)
    return np.isin(point, order[: int(0.8 * order.size)])


def held_out_errors(
    model: object,
    X: FloatArray,
    y: FloatArray,
    splits: Mapping[str, Sequence[BoolArray]],
    coverage: float | None = None,
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
    coverage : float, optional
        Also count how many rows lie in intervals of this coverage.

    Returns
    -------
    list of SplitError
        A split that leaves fewer than three rows to fit on or none to predict is left out.
    """
    found = []
    for name, masks in splits.items():
        if min(int(m.sum()) for m in masks) < 3 or min(int((~m).sum()) for m in masks) < 1:
            continue
        pairs = [_error(model, X, y, mask, coverage) for mask in masks]
        fitted = int(masks[0].sum())
        error, covered = (float(np.mean(part)) for part in zip(*pairs, strict=True))
        found.append(SplitError(name, fitted, len(y) - fitted, error, len(masks), covered))
    return found


def grouped_fifths(X: FloatArray, groups: npt.NDArray[np.str_]) -> list[BoolArray]:
    """Return masks of the rows to fit on, one per seed, without a fifth of every group's points.

    Every group draws its own: were the same sizes held out in all groups that were measured at the
    same ones, a split would test sizes that nothing was fitted on.
    """
    masks = [np.zeros(len(X), dtype=bool) for _ in range(SEEDS)]
    for seed, mask in enumerate(masks):
        rng = np.random.default_rng(seed)
        for group in np.unique(groups):
            own = np.flatnonzero(groups == group)
            mask[own] = _random_fifth(X[own], rng)
    return masks


def operation_splits(
    X: FloatArray,
    groups: npt.NDArray[np.str_],
    models: npt.NDArray[np.str_],
    gpus: npt.NDArray[np.str_],
) -> dict[str, list[BoolArray]]:
    """Rows of operations to fit on, by what is held out.

    A random fifth of every group's points; the longest, the largest batches and the deepest
    pipelines (above the middle of the distinct values); every model and every GPU type in turn.

    Parameters
    ----------
    X : ndarray, shape (R, len(COLUMNS))
        See `predictors.operations`.
    groups, models, gpus : ndarray of str, shape (R,)
        Group, model and GPU type of every row.
    """
    splits = {"random fifth": grouped_fifths(X, groups)}
    for what, values in (
        ("length", column(X, "length")),
        ("batch tokens", tokens(X)),
        ("pipeline", column(X, "pipeline")),
    ):
        distinct = np.unique(values)
        if distinct.size > 1:
            limit = float(distinct[(distinct.size - 1) // 2])
            splits[f"{what} > {limit:g}"] = [values <= limit]
    for what, names in (("unseen model", models), ("unseen GPU", gpus)):
        if np.unique(names).size > 1:
            splits[what] = [names != name for name in np.unique(names)]
    return splits


def _error(
    model: object, X: FloatArray, y: FloatArray, fit_on: BoolArray, coverage: float | None
) -> tuple[float, float]:
    fitted = clone(model).set_params(calibrate=coverage is not None).fit(X[fit_on], y[fit_on])
    error = mape_pct(y[~fit_on], fitted.predict(X[~fit_on]))
    if coverage is None:
        return error, float("nan")
    low, high = fitted.predict_interval(X[~fit_on], coverage).T
    return error, float(100 * np.mean((low <= y[~fit_on]) & (y[~fit_on] <= high)))
