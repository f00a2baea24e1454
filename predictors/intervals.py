"""Prediction intervals from residuals on held-out folds, also within groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.model_selection import KFold

from lemix_opt.checks import BoolArray, FloatArray, IntArray, floats
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
    values: FloatArray,
    level: float,
    weights: FloatArray | None = None,
    new: float | None = None,
) -> float:
    """Value that a new one does not exceed with probability `level`.

    The ⌈(R+1)·level⌉-th smallest (Vovk 2015); with weights, the smallest value up to which their
    share of Σw + w_new is `level` (Tibshirani et al. 2019, section 3). Infinite where there are
    too few for the level.

    Parameters
    ----------
    values : ndarray, shape (R,)
        Held-out residuals or scores.
    level : float
        Probability, in (0, 1].
    weights : ndarray, shape (R,), optional
        Weight of each value, above 0; equal when omitted.
    new : float, optional
        Weight of the new value; the largest of `weights` when omitted.
    """
    level = float(floats("level", level, (), above=0, maximum=1))
    if not len(values):
        return float("inf")
    each = np.ones(len(values)) if weights is None else weights
    order = np.argsort(values, kind="stable")
    below = np.cumsum(each[order])
    wanted = level * (below[-1] + (np.max(each) if new is None else new))
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
        How many own points the other groups count as, at most as many as they have.
    points : ndarray of int, shape (R,), optional
        Measured point of every row; its repeats, which fail together, share the weight of one. One
        each when omitted.
    kinds : ndarray of int, shape (R,), optional
        Kind of prediction of every row (within or beyond what was measured, for instance): groups
        lean on others of their kind only, unless these are fewer than `pooled_rows`. One for all
        when omitted.
    """

    residuals: FloatArray
    groups: npt.NDArray[np.generic]
    pooled_rows: float = POOLED_ROWS
    points: IntArray | None = None
    kinds: IntArray | None = None

    def __post_init__(self) -> None:
        for name in ("groups", "points", "kinds"):
            own = getattr(self, name)
            if own is not None and np.shape(own) != np.shape(self.residuals):
                raise FieldError(
                    f"shape {np.shape(own)}",
                    where=name,
                    expected=f"one per residual: shape {np.shape(self.residuals)}",
                )

    def log_radius(
        self, coverage: float, groups: npt.NDArray[np.generic], kinds: IntArray | None = None
    ) -> FloatArray:
        """Half width of the interval of every row in log space, shape (Q,); see `conformal_factor`.

        Parameters
        ----------
        coverage : float
            Probability that a new measurement lies inside, in (0, 1].
        groups : ndarray, shape (Q,)
            Group of every row.
        kinds : ndarray of int, shape (Q,), optional
            Kind of every row; 0 when omitted.
        """
        return self._by_group(np.abs(self.residuals), coverage, groups, kinds)

    def log_quantile(
        self, quantile: float, groups: npt.NDArray[np.generic], kinds: IntArray | None = None
    ) -> FloatArray:
        """Log of the factor that a new measurement's ratio to the prediction stays below, (Q,).

        Parameters
        ----------
        quantile : float
            Probability that it does, in (0, 1].
        groups : ndarray, shape (Q,)
            Group of every row.
        kinds : ndarray of int, shape (Q,), optional
            Kind of every row; 0 when omitted.
        """
        return self._by_group(self.residuals, quantile, groups, kinds)

    def _by_group(
        self,
        values: FloatArray,
        level: float,
        groups: npt.NDArray[np.generic],
        kinds: IntArray | None,
    ) -> FloatArray:
        found = np.empty(len(groups))
        for kind in [0] if kinds is None else np.unique(kinds).tolist():
            at = np.full(len(groups), True) if kinds is None else kinds == kind
            alike = np.full(len(values), True) if self.kinds is None else self.kinds == kind
            if np.sum(alike) < self.pooled_rows:
                alike[:] = True
            found[at] = self._of_kind(values, level, groups[at], alike, kind)
        return found

    def _of_kind(
        self,
        values: FloatArray,
        level: float,
        groups: npt.NDArray[np.generic],
        alike: BoolArray,
        kind: int,
    ) -> FloatArray:
        values, known = values[alike], self.groups[alike]
        own_kind = np.full(len(values), True) if self.kinds is None else self.kinds[alike] == kind
        each = np.ones(len(values))
        if self.points is not None:
            _, place, repeats = np.unique(
                self.points[alike], return_inverse=True, return_counts=True
            )
            each = 1 / repeats[place.reshape(-1)]
        asked, back = np.unique(groups, return_inverse=True)
        found = np.empty(asked.size)
        for at, name in enumerate(asked):
            own = (known == name) & own_kind
            others = max(1.0, float(np.sum(each[~own])))
            share = min(1.0, self.pooled_rows / others)
            weights = each * np.where(own, 1.0, share)
            new = 1.0 if own.any() else share
            found[at] = conformal_quantile(values, level, weights, new)
        return np.asarray(found[back.reshape(-1)])
