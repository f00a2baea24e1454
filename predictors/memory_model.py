"""Peak memory of runs: physical parts, each with a learned factor, and a guarded correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted, validate_data

from lemix_opt.checks import FloatArray, IntArray, floats
from lemix_opt.errors import FieldError
from predictors.binary_trees import BinaryTrees
from predictors.efficiencies import distinct_rows, find_rows
from predictors.intervals import (
    FOLDS,
    GroupedResiduals,
    conformal_quantile,
    held_out_residuals,
    log_residuals,
    points,
)
from predictors.operation_model import EXTRAPOLATED, INTERPOLATED, MEASURED
from predictors.regressor import CalibratedRegressor
from predictors.state import State

POOLED_ROWS = 5.0
"""What all other groups together count as beside a group's own residuals; few, since models of
other shapes err differently."""
SHARES = (0.0, 0.5, 1.0)
"""Shares of the boosted correction that held-out groups choose from."""
_ROUNDS = 30
_LEAST_SHARE = 0.05
"""Share of the peak that a part counts as at least in the weight of its prior: what never was more
cannot be learned, and its factor stays near 1."""


class MemoryModel(CalibratedRegressor):
    """Measured peak = largest over phases of Σ factor·part, factors at least 0.

    Columns are physical estimates in bytes (states, activations, …), see
    `predictors.memory_parts`; factors are the learned correction of each, of least relative
    squared error. Which phase a run peaks in follows from the factors themselves and is found by
    turns. On top a share of gradient boosting of the log residual, clipped to the range that was
    fitted on; the share is what did best on groups of runs that were left out whole, and 0 unless
    it did better there than the factors alone.

    Parameters
    ----------
    phases : sequence of sequence of int, optional
        Columns that are there at once; all columns in one phase when omitted.
    prior_runs : float, default 0
        How many runs the belief that every factor is 1 weighs as much as. With 0 there is also a
        constant, bytes that are always there.
    boost : float, optional
        Share of the boosted correction in [0, 1]; chosen on held-out groups when None.
    random_state : int, default 0
        Seed of the boosting.
    calibrate : bool, default True
        See `CalibratedRegressor`.

    Attributes
    ----------
    constant_ : float
        Bytes that are always there.
    factor_ : ndarray, shape (F,)
        Correction of every column.
    share_ : float
        Share of the boosted correction.
    residual_groups_ : ndarray, shape (R,)
        Group of every residual.
    new_residuals_ : ndarray, shape (R,)
        Residuals of every group predicted without it, where groups were given; intervals of a group
        that was not fitted on come from them.
    limit_bytes_ : float
        Predicted peak above which a run is said to run out of memory, see
        `predictors.out_of_memory.fit_limit`; infinite until it is set.
    """

    def __init__(
        self,
        phases: Sequence[Sequence[int]] | None = None,
        prior_runs: float = 0.0,
        boost: float | None = 0.0,
        random_state: int | None = 0,
        calibrate: bool = True,
    ) -> None:
        super().__init__(calibrate)
        self.phases = phases
        self.prior_runs = prior_runs
        self.boost = boost
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Self:
        """Fit to measured peaks.

        Parameters
        ----------
        X : array_like, shape (R, F)
            Bytes of every part.
        y : array_like, shape (R,)
            Measured peak bytes.
        groups : array_like, shape (R,), optional
            What every run is of, for instance its model: groups are left out whole to choose the
            share of boosting, and have intervals of their own. Without them, repeats of a point.
        """
        data, target = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        target = np.asarray(target, dtype=np.float64)
        families = points(data) if groups is None else _checked(groups, len(target))
        share = self._chosen_share(data, target, families) if self.boost is None else self.boost
        self.share_ = float(floats("boost", share, (), minimum=0, maximum=1))
        self._fit(data, target)
        fixed = clone(self).set_params(boost=self.share_)
        self.residuals_ = held_out_residuals(fixed, data, target) if self.calibrate else np.empty(0)
        squares = self.residuals_**2
        self.residual_std_ = float(np.sqrt(squares.mean())) if squares.size else float("nan")
        everyone = np.zeros(len(target), dtype=np.int64) if groups is None else families
        self.residual_groups_ = everyone[: len(self.residuals_)]
        self.new_residuals_ = np.empty(0)
        if groups is not None and self.calibrate and np.unique(families).size > 1:
            self.new_residuals_ = _left_out(fixed, data, target, families)
        self.limit_bytes_ = np.inf
        self.measured_ = distinct_rows(data)[0]
        self.group_names_ = np.unique(everyone)
        boxes = [data[everyone == name] for name in self.group_names_]
        self.group_low_ = np.array([box.min(axis=0) for box in boxes])
        self.group_high_ = np.array([box.max(axis=0) for box in boxes])
        return self

    def provenance(self, X: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> IntArray:
        """Index in `predictors.operation_model.LABELS` of where predictions come from, shape (R,).

        Measured: the very parts were; interpolated: every part lies within those of the group's
        runs; extrapolated otherwise. Parameters as for `predict_interval`.
        """
        check_is_fitted(self)
        rows = np.atleast_2d(np.asarray(X, dtype=np.float64))
        asked = self._asked(groups, len(rows))
        found = np.full(len(rows), EXTRAPOLATED)
        for at, name in enumerate(self.group_names_):
            inside = (rows >= self.group_low_[at]) & (rows <= self.group_high_[at])
            found[(asked == name) & inside.all(axis=1)] = INTERPOLATED
        known = np.isin(asked, self.group_names_)
        found[known & (find_rows(self.measured_, rows) >= 0)] = MEASURED
        return found

    def predict_interval(
        self, X: npt.ArrayLike, coverage: float = 0.9, groups: npt.ArrayLike | None = None
    ) -> FloatArray:
        """Lower and upper value that hold a new measurement with probability `coverage`, (R, 2).

        Parameters
        ----------
        X : array_like, shape (R, F)
            Bytes of every part.
        coverage : float, default 0.9
            Probability.
        groups : array_like, shape (R,), optional
            Group of every row, as in `fit`; an unknown one has the interval of groups left out.
        """
        middle = self.predict(X)
        asked = self._asked(groups, len(middle))
        radius = self._residuals().log_radius(coverage, asked)
        if self.new_residuals_.size:
            new = conformal_quantile(np.abs(self.new_residuals_), coverage)
            radius = np.where(np.isin(asked, self.group_names_), radius, new)
        return np.column_stack([middle * np.exp(-radius), middle * np.exp(radius)])

    def predict_quantile(
        self, X: npt.ArrayLike, quantile: float = 0.9, groups: npt.ArrayLike | None = None
    ) -> FloatArray:
        """Bytes that a new measurement stays below with probability `quantile`, shape (R,).

        Conformal, from signed residuals; infinite where the group's residuals and those beside
        them are too few for the quantile. Parameters as for `predict_interval`.
        """
        middle = self.predict(X)
        asked = self._asked(groups, len(middle))
        upper = self._residuals().log_quantile(quantile, asked)
        if self.new_residuals_.size:
            new = conformal_quantile(self.new_residuals_, quantile)
            upper = np.where(np.isin(asked, self.group_names_), upper, new)
        return np.asarray(middle * np.exp(upper))

    def _residuals(self) -> GroupedResiduals:
        check_is_fitted(self)
        return GroupedResiduals(self.residuals_, self.residual_groups_, POOLED_ROWS)

    def _asked(self, groups: npt.ArrayLike | None, rows: int) -> npt.NDArray[Any]:
        if groups is not None:
            return _checked(groups, rows)
        kind = self.residual_groups_.dtype.type
        return np.full(rows, kind(0) if self.residual_groups_.dtype.kind in "iu" else kind(""))

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        self._fit_factors(X, y)
        self.correction_: BinaryTrees | None = None
        if self.share_ > 0:
            from sklearn.ensemble import GradientBoostingRegressor

            logs = _logs(X)
            self.low_, self.high_ = logs.min(axis=0), logs.max(axis=0)
            grown = GradientBoostingRegressor(
                n_estimators=50,
                learning_rate=0.1,
                max_depth=3,
                min_samples_leaf=3,
                random_state=self.random_state,
            ).fit(logs, log_residuals(y, self._physical(X)))
            self.correction_ = BinaryTrees.of(grown, logs)

    def _fit_factors(self, X: FloatArray, y: FloatArray) -> None:
        """Assign runs to phases and fit, by turns, and keep the best."""
        prior = float(floats("prior_runs", self.prior_runs, (), minimum=0))
        best = np.inf
        factor, constant = np.ones(X.shape[1]), 0.0
        weight = np.where(y > 0, 1 / np.where(y > 0, y, 1.0), 1.0)
        phased, seen = self._phased(X), None
        for _ in range(_ROUNDS):
            phase = np.argmax(phased @ factor, axis=0)
            if seen is not None and np.array_equal(phase, seen):
                break
            seen = phase
            parts = phased[phase, np.arange(len(X))]
            found = _shrunk_nnls(parts * weight[:, None], weight, y * weight, prior)
            constant, factor = float(found[0]), found[1:]
            loss = float(np.mean((weight * (self._peak(phased, constant, factor) - y)) ** 2))
            if loss < best:
                best, self.constant_, self.factor_ = loss, constant, factor

    def _chosen_share(self, X: FloatArray, y: FloatArray, families: npt.NDArray[Any]) -> float:
        """Share of the correction with the least error on groups left out whole."""
        distinct = len(np.unique(families))
        if distinct < 2:
            return SHARES[0]
        errors = np.zeros(len(SHARES))
        whole = clone(self).set_params(calibrate=False, boost=1.0)
        for fit_on, held in GroupKFold(min(FOLDS, distinct)).split(X, groups=families):
            model = clone(whole).fit(X[fit_on], y[fit_on])
            physical = model._physical(X[held])
            logs = log_residuals(model._predict(X[held]), physical)
            for at, share in enumerate(SHARES):
                corrected = physical * np.exp(share * logs)
                errors[at] += np.sum(np.abs(log_residuals(y[held], corrected)))
        return SHARES[int(np.argmin(errors))]

    def _phased(self, X: FloatArray) -> FloatArray:
        """Parts by phase, 0 where a phase does not have them, shape (phases, R, F)."""
        if self.phases is None:
            return X[None]
        found = np.zeros((len(self.phases), *X.shape))
        for at, columns in enumerate(self.phases):
            if max(columns) >= X.shape[1]:
                raise FieldError(
                    f"{X.shape[1]} columns", where="X", expected=f"more than {max(columns)}"
                )
            found[at][:, list(columns)] = X[:, list(columns)]
        return found

    @staticmethod
    def _peak(phased: FloatArray, constant: float, factor: FloatArray) -> FloatArray:
        return np.asarray(constant + np.max(phased @ factor, axis=0))

    def _physical(self, X: FloatArray) -> FloatArray:
        return self._peak(self._phased(X), self.constant_, self.factor_)

    def _check_fitted(self, state: State, columns: int) -> None:
        phases = state.take("phases")
        if phases is not None and not _are_phases(phases, columns):
            expected = f"lists of columns from 0 to {columns - 1}"
            raise state.refuse("phases", "other entries", expected)
        state.floats("factor_", (columns,), minimum=0)
        state.number("constant_")
        state.number("share_", maximum=1)
        state.number("limit_bytes_", infinite=True)
        correction = state.part("correction_", BinaryTrees, optional=True)
        if correction is not None:
            trees, own = correction
            trees.check_state(own, columns)
        # A fit without a correction leaves those of the fit before it.
        if correction is not None or state.holds("low_"):
            state.floats("low_", (columns,))
            state.floats("high_", (columns,))
        state.floats("measured_", (None, columns))
        groups = len(state.array("group_names_", "iU", (None,)))
        state.floats("group_low_", (groups, columns))
        state.floats("group_high_", (groups, columns))

    def _check_residuals(self, state: State) -> None:
        rows = state.floats("residuals_", (None,)).shape
        known = state.array("residual_groups_", "iU", rows)
        state.floats("new_residuals_", (None,))
        if known.dtype.kind != self.group_names_.dtype.kind:
            raise state.refuse(
                "residual_groups_", f"entries of type {known.dtype}", "those of group_names_"
            )

    def _predict(self, X: FloatArray) -> FloatArray:
        found = self._physical(X)
        if self.correction_ is None:
            return found
        logs = np.clip(_logs(X), self.low_, self.high_)
        return np.asarray(found * np.exp(self.share_ * self.correction_.predict(logs)))


def _shrunk_nnls(
    parts: FloatArray, constant: FloatArray, target: FloatArray, prior_runs: float
) -> FloatArray:
    """Constant and factors of at least 0 and least squares, factors drawn towards 1, (1 + F,).

    The constant is left out where there is a prior, which none is known for.
    """
    size = np.linalg.norm(constant)
    scale = np.linalg.norm(parts, axis=0)
    if prior_runs == 0:
        scale = np.where(scale > 0, scale, 1.0)
        found = nnls(np.column_stack([constant / (size or 1.0), parts / scale]), target)[0]
        return np.concatenate([found[:1] / (size or 1.0), found[1:] / scale])
    share = np.maximum(np.sqrt(np.mean(parts**2, axis=0)), _LEAST_SHARE)
    belief = np.sqrt(prior_runs) * share
    found = nnls(np.vstack([parts, np.diag(belief)]), np.concatenate([target, belief]))[0]
    return np.concatenate([[0.0], found])


def _left_out(
    model: MemoryModel, X: FloatArray, y: FloatArray, groups: npt.NDArray[Any]
) -> FloatArray:
    """Log residuals of every group, predicted by a model fitted without it, shape (R,)."""
    found = np.empty(len(y))
    for name in np.unique(groups):
        held = groups == name
        apart = clone(model).set_params(calibrate=False).fit(X[~held], y[~held], groups[~held])
        found[held] = log_residuals(y[held], apart.predict(X[held]))
    return found


def _are_phases(found: Any, columns: int) -> bool:
    return (
        isinstance(found, list | tuple)
        and len(found) > 0
        and all(isinstance(phase, list | tuple) and len(phase) > 0 for phase in found)
        and all(type(at) is int and 0 <= at < columns for phase in found for at in phase)
    )


def _logs(X: FloatArray) -> FloatArray:
    return np.asarray(np.sign(X) * np.log1p(np.abs(X)))


def _checked(groups: npt.ArrayLike, rows: int) -> npt.NDArray[Any]:
    found = np.asarray(groups)
    if found.shape != (rows,):
        raise FieldError(f"shape {found.shape}", where="groups", expected=f"shape ({rows},)")
    return found
