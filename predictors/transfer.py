"""How well a model predicts a GPU type it has not seen, by how many points of it are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.correction import Group, OnlineCorrection
from predictors.design import worth_measuring
from predictors.errors_by_split import mape_pct
from predictors.intervals import points
from predictors.operation_model import OperationTimeModel
from predictors.operations import COLUMNS


@dataclass(frozen=True)
class TransferError:
    """Error on the rest of a GPU type after some of its points were measured.

    Parameters
    ----------
    gpu : str
        The type that was left out.
    measured : int
        Points of it that were fitted on besides all other types; 0 is the data sheet alone.
    mape_pct, low_pct, high_pct : float
        Mean, least and most error over the draws of the points, in percent.
    rows : int
        Rows predicted, over all draws.
    draws : int
        How many draws.
    chosen : bool
        Whether the points were chosen by `predictors.design` instead of drawn.
    """

    gpu: str
    measured: int
    mape_pct: float
    low_pct: float
    high_pct: float
    rows: int
    draws: int
    chosen: bool = False


def shape_points(X: FloatArray) -> IntArray:
    """Return the number of the point of every row, shape (R,): all kinds of operation of one shape.

    Who measures a layer gets its forward and its backward, so that both are one point.
    """
    return points(np.delete(X, COLUMNS.index("kind"), axis=1))


def transfer_curve(
    model: OperationTimeModel,
    X: FloatArray,
    y: FloatArray,
    gpus: npt.NDArray[np.str_],
    measured: Sequence[int] = (0, 1, 5, 20),
    draws: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> list[TransferError]:
    """Leave every GPU type out in turn, give some of its points back, and predict the others.

    What a fit chooses on held-out folds is chosen once per type that is left out, without any of
    its points.

    Parameters
    ----------
    model : OperationTimeModel
        Its settings are used for every fit.
    X, y : ndarray, shapes (R, F) and (R,)
        Operations and measured seconds.
    gpus : ndarray of str, shape (R,)
        GPU type of every row.
    measured : sequence of int
        How many points (`shape_points`) are given back; what a type does not have is left out.
    draws : int, default 3
        Random draws of the points, the same ones for every call; those of fewer points are part
        of those of more.
    progress : callable, optional
        Called with how many types are done, and out of how many.

    Returns
    -------
    list of TransferError
        By type and number of points, of drawn points and then of those that
        `predictors.design.worth_measuring` chooses, which has their operations but not their times.
    """
    found = []
    names = np.unique(gpus)
    for done, gpu in enumerate(names):
        if progress is not None:
            progress(done, len(names))
        own = np.flatnonzero(gpus == gpu)
        point = shape_points(X[own])
        distinct = int(point.max()) + 1
        others = gpus != gpu
        base = OperationTimeModel(**{**model.get_params(), "calibrate": False})
        base.fit(X[others], y[others])
        settled = clone(base).set_params(choices=base.choices_)
        orders = [np.random.default_rng(seed).permutation(distinct) for seed in range(draws)]
        counts = [count for count in measured if count < distinct]
        chosen = worth_measuring(base.physics_, X[own], point, max(counts, default=0))
        for count in counts:
            drawn = [others | _rows(own[np.isin(point, o[:count])], len(y)) for o in orders]
            best = [others | _rows(own[np.isin(point, chosen[:count])], len(y))]
            for masks, which in ((drawn, False), (best, True)) if count else ((best, False),):
                errors = [
                    _error(settled.fit(X[m], y[m]) if count else base, X, y, m) for m in masks
                ]
                mean, low, high = float(np.mean(errors)), min(errors), max(errors)
                rows = sum(int(np.sum(~mask)) for mask in masks)
                found.append(
                    TransferError(str(gpu), count, mean, low, high, rows, len(errors), which)
                )
    return found


def _rows(at: IntArray, rows: int) -> BoolArray:
    found = np.zeros(rows, dtype=bool)
    found[at] = True
    return found


def _error(fitted: OperationTimeModel, X: FloatArray, y: FloatArray, fit_on: BoolArray) -> float:
    return mape_pct(y[~fit_on], fitted.predict(X[~fit_on]))


def online_errors(
    predicted: FloatArray,
    measured: FloatArray,
    groups: Sequence[Group],
    seen: Sequence[int],
    correction: OnlineCorrection,
) -> list[float]:
    """Error on each execution, before it is seen, by how many executions were seen before.

    Parameters
    ----------
    predicted, measured : ndarray, shape (R,)
        Seconds in the order of the executions.
    groups : sequence of tuple, shape (R,)
        Group of every execution, see `OnlineCorrection`.
    seen : sequence of int
        Limits, ascending: the first error is over executions with less than seen[0] before them.

    Returns
    -------
    list of float
        Mean absolute error in percent up to each limit and beyond the last; NaN for none.
    """
    errors: list[list[float]] = [[] for _ in range(len(seen) + 1)]
    rows = zip(predicted.tolist(), measured.tolist(), groups, strict=True)
    for count, (told, took, group) in enumerate(rows):
        error = abs(float(correction.correct(group, told)) - took) / took
        errors[int(np.searchsorted(seen, count, side="right"))].append(100 * error)
        correction.observe(group, told, took)
    return [float(np.mean(part)) if part else float("nan") for part in errors]
