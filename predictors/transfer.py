"""How well a model predicts a GPU type it has not seen, by how many points of it are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from lemix_opt.checks import FloatArray
from lemix_opt.correction import OnlineCorrection
from predictors.errors_by_split import mape_pct
from predictors.intervals import points


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
        Mean, least and most error over the seeds that draw the points, in percent.
    rows : int
        Rows predicted, over all seeds.
    """

    gpu: str
    measured: int
    mape_pct: float
    low_pct: float
    high_pct: float
    rows: int


def transfer_curve(
    model: object,
    X: FloatArray,
    y: FloatArray,
    gpus: npt.NDArray[np.str_],
    measured: Sequence[int] = (0, 1, 5, 20),
    seeds: int = 3,
) -> list[TransferError]:
    """Leave every GPU type out in turn, give some of its points back, and predict the others.

    Parameters
    ----------
    model : estimator
        Cloned for every fit.
    X, y : ndarray, shapes (R, F) and (R,)
        Operations and measured seconds.
    gpus : ndarray of str, shape (R,)
        GPU type of every row.
    measured : sequence of int
        How many points are given back; what a type does not have is left out.
    seeds : int, default 3
        Draws of the points.
    """
    found = []
    for gpu in np.unique(gpus):
        own = np.flatnonzero(gpus == gpu)
        point = points(X[own])
        distinct = int(point.max()) + 1
        for count in measured:
            if count >= distinct:
                continue
            errors, rows = [], 0
            for seed in range(seeds if count else 1):
                order = np.random.default_rng(seed).permutation(distinct)
                back = np.isin(point, order[:count])
                fit_on = gpus != gpu
                fit_on[own[back]] = True
                fitted = clone(model).set_params(calibrate=False).fit(X[fit_on], y[fit_on])
                errors.append(mape_pct(y[~fit_on], fitted.predict(X[~fit_on])))
                rows += int(np.sum(~fit_on))
            mean = float(np.mean(errors))
            found.append(TransferError(str(gpu), count, mean, min(errors), max(errors), rows))
    return found


def online_errors(
    predicted: FloatArray,
    measured: FloatArray,
    groups: Sequence[str],
    seen: Sequence[int],
    correction: OnlineCorrection,
) -> list[float]:
    """Error on each execution, before it is seen, by how many of its group were seen before.

    Parameters
    ----------
    predicted, measured : ndarray, shape (R,)
        Seconds in the order of the executions.
    groups : sequence of str, shape (R,)
        Group of every execution.
    seen : sequence of int
        Limits, ascending: the first error is over executions with less than seen[0] before them.

    Returns
    -------
    list of float
        Mean absolute error in percent up to each limit and beyond the last; NaN for none.
    """
    before: dict[str, int] = {}
    errors: list[list[float]] = [[] for _ in range(len(seen) + 1)]
    for told, took, group in zip(predicted.tolist(), measured.tolist(), groups, strict=True):
        count = before.get(group, 0)
        error = abs(float(correction.correct(group, told)) - took) / took
        errors[int(np.searchsorted(seen, count, side="right"))].append(100 * error)
        correction.observe(group, told, took)
        before[group] = count + 1
    return [float(np.mean(part)) if part else float("nan") for part in errors]
