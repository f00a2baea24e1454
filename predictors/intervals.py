"""Prediction intervals from residuals on held-out folds, also within groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.model_selection import KFold

from lemix_opt.checks import FloatArray, IntArray, floats
from lemix_opt.errors import FieldError

FOLDS = 5
POOLED_ROWS = 20.0
"""How many rows of a group's own the residuals of all other groups together count as."""


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


def conformal_quantile(
    values: FloatArray, level: float, weights: FloatArray | None = None
) -> float:
    """Value that a new one does not exceed with probability `level`.

    The ⌈(R+1)·level⌉-th smallest (Vovk 2015); with weights, the smallest value up to which their
    share is level·(n+1)/n, n = (Σw)²/Σw² being how many equal rows they are worth (Kish 1965).
    Infinite where there are too few for the level.

    Parameters
    ----------
    values : ndarray, shape (R,)
        Held-out residuals or scores.
    level : float
        Probability, in (0, 1].
    weights : ndarray, shape (R,), optional
        Weight of each value, above 0; equal when omitted.
    """
    level = float(floats("level", level, (), above=0, maximum=1))
    if not len(values):
        return float("inf")
    each = np.ones(len(values)) if weights is None else weights
    order = np.argsort(values, kind="stable")
    below = np.cumsum(each[order])
    wanted = level * (below[-1] + np.sum(each**2) / below[-1])
    # The slack keeps 0.9 · 10 from being more than 9.
    at = int(np.searchsorted(below, wanted * (1 - 1e-12)))
    return float(values[order[at]]) if at < len(values) else float("inf")


def conformal_factor(residuals: FloatArray, coverage: float) -> float:
    """Factor f so that predicted/f … predicted·f covers a new row with the asked probability.

    Cross-conformal, from absolute log residuals, see `conformal_quantile`. Holds for rows like
    those fitted on, not beyond their range.
    """
    coverage = float(floats("coverage", coverage, (), above=0, maximum=1))
    return float(np.exp(conformal_quantile(np.abs(residuals), coverage)))


@dataclass(frozen=True, eq=False)
class GroupedResiduals:
    """Held-out log residuals with their groups, from which intervals and quantiles come.

    Within a group its own residuals decide, those of all other groups counting as `pooled_rows`
    more: Mondrian (group-conditional) conformal prediction that leans on the pooled residuals
    where a group has few of its own, and is the pooled one for a group without any. The coverage
    of a group is therefore exact with many own rows, and as far as groups are alike with few.

    Parameters
    ----------
    residuals : ndarray, shape (R,)
        Log of measured over predicted on held-out folds, divided by the row's scale where rows
        have one.
    groups : ndarray of int or str, shape (R,)
        Group of every row.
    pooled_rows : float, default 20
        How many own rows the other groups count as, at most as many as they have.
    """

    residuals: FloatArray
    groups: npt.NDArray[np.generic]
    pooled_rows: float = POOLED_ROWS

    def __post_init__(self) -> None:
        if np.shape(self.groups) != np.shape(self.residuals):
            raise FieldError(
                f"shape {np.shape(self.groups)}",
                where="groups",
                expected=f"one group per residual, shape {np.shape(self.residuals)}",
            )

    def log_radius(self, coverage: float, groups: npt.NDArray[np.generic]) -> FloatArray:
        """Half width of the interval of every row in log space, shape (Q,); see `conformal_factor`.

        Parameters
        ----------
        coverage : float
            Probability that a new measurement lies inside, in (0, 1].
        groups : ndarray, shape (Q,)
            Group of every row.
        """
        return self._by_group(np.abs(self.residuals), coverage, groups)

    def log_quantile(self, quantile: float, groups: npt.NDArray[np.generic]) -> FloatArray:
        """Log of the factor that a new measurement's ratio to the prediction stays below, (Q,).

        Parameters
        ----------
        quantile : float
            Probability that it does, in (0, 1].
        groups : ndarray, shape (Q,)
            Group of every row.
        """
        return self._by_group(self.residuals, quantile, groups)

    def _by_group(
        self, values: FloatArray, level: float, groups: npt.NDArray[np.generic]
    ) -> FloatArray:
        asked, place = np.unique(groups, return_inverse=True)
        found = np.empty(asked.size)
        for at, name in enumerate(asked):
            own = self.groups == name
            others = max(1, int(np.sum(~own)))
            weights = np.where(own, 1.0, min(1.0, self.pooled_rows / others))
            found[at] = conformal_quantile(values, level, weights)
        return np.asarray(found[place.reshape(-1)])
