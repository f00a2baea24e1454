"""What time and memory models share: validation, held-out residuals, intervals."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import FieldError
from predictors.evidence import BEYOND, WITHIN, NoiseScale
from predictors.intervals import GroupedResiduals, held_out_residuals, points
from predictors.state import State

_MOST_COLUMNS = 10_000
_LARGEST_LOG = 600.0
"""Of a factor that no prediction times it is infinite for."""

Places = tuple[npt.NDArray[np.generic], IntArray, FloatArray]
"""Group, kind and scale of rows, as in `HeldOut`, each of shape (R,)."""


def relative_nnls(
    features: FloatArray, y: FloatArray, whole: FloatArray | None = None
) -> FloatArray:
    """Coefficients of at least 0 and least relative squared error, shape (F,).

    Errors are relative to `whole`, where `y` is only a part of it. Rows in which that is not
    positive count with their absolute error.
    """
    whole = y if whole is None else whole
    weights = np.where(whole > 0, 1 / np.where(whole > 0, whole, 1.0), 1.0)
    weighted = features * weights[:, None]
    scale = np.linalg.norm(weighted, axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(weighted / scale, y * weights)
    return np.asarray(found / scale)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What is known of predictions of rows that were not fitted on, all of shape (R,).

    Parameters
    ----------
    residuals : ndarray
        Log of measured over predicted.
    scale : ndarray
        How wide residuals are there next to others'.
    groups, points, kinds : ndarray of int
        See `GroupedResiduals`.
    """

    residuals: FloatArray
    scale: FloatArray
    groups: npt.NDArray[np.generic]
    points: IntArray
    kinds: IntArray

    @classmethod
    def alike(cls, residuals: FloatArray) -> HeldOut:
        """Residuals of one group, each of its own point."""
        size = residuals.size
        nothing = np.zeros(size, dtype=np.int64)
        return cls(residuals, np.ones(size), nothing, np.arange(size), nothing)


class CalibratedRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn regressor that knows its own error; subclasses give `_fit` and `_predict`.

    Parameters
    ----------
    calibrate : bool, default True
        Whether `fit` also measures held-out residuals (5 folds), which `predict_interval` needs.

    Attributes
    ----------
    residuals_ : ndarray, shape (R,)
        Log residuals on held-out folds, divided by the rows' scale where a class has one; empty
        without calibration.
    residual_groups_, residual_points_, residual_kinds_ : ndarray, shape (R,)
        Group, measured point and kind of each of them, see `GroupedResiduals`.
    residual_std_ : float
        Root mean square of those within what was measured, not divided: relative spread of one
        prediction, NaN without calibration.
    """

    def __init__(self, calibrate: bool = True) -> None:
        self.calibrate = calibrate

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Times and bytes grow with every column; scikit-learn's generic targets do not.
        tags.regressor_tags.poor_score = True
        return tags

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Fit to measured values.

        Parameters
        ----------
        X : array_like, shape (R, F)
            Columns as the class documents them.
        y : array_like, shape (R,)
            Measured seconds or bytes.
        """
        data, target = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        target = np.asarray(target, dtype=np.float64)
        self._fit(data, target)
        self.keep_residuals(
            self._held_out(data, target) if self.calibrate else HeldOut.alike(np.empty(0))
        )
        return self

    def keep_residuals(self, held: HeldOut) -> None:
        """Take what is known of held-out rows, from which intervals and quantiles come."""
        squares = held.residuals[held.kinds == WITHIN] ** 2
        self.residual_std_ = float(np.sqrt(squares.mean())) if squares.size else float("nan")
        self.residuals_ = held.residuals / held.scale
        self.residual_groups_ = held.groups
        self.residual_points_ = held.points
        self.residual_kinds_ = held.kinds

    def _held_out(self, X: FloatArray, y: FloatArray) -> HeldOut:
        """Measure residuals of rows on models fitted without them."""
        found = held_out_residuals(self, X, y)
        if not found.size:
            return HeldOut.alike(found)
        groups, kinds, scale = self._places(X)
        return HeldOut(found, scale, groups, points(X), kinds)

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Predict values, shape (R,).

        Raises
        ------
        FieldError
            If a prediction is not finite.
        """
        check_is_fitted(self)
        found = self._predict(validate_data(self, X, reset=False, dtype=np.float64))
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found)))
            raise FieldError(
                f"value {found[row]}",
                where=f"prediction, row {row}",
                expected="a finite number",
                hint="The row, or what the model was fitted on, is beyond all measure",
            )
        return found

    def predict_interval(self, X: npt.ArrayLike, coverage: float = 0.9) -> FloatArray:
        """Lower and upper value that hold a new measurement with probability `coverage`, (R, 2).

        Covers rows like those fitted on, also within every group of a class that has groups; see
        `GroupedResiduals`. Infinite where there are too few held-out rows for the coverage.
        """
        return self._interval(self.predict(X), coverage, self._places(np.asarray(X, np.float64)))

    def predict_quantile(self, X: npt.ArrayLike, quantile: float = 0.9) -> FloatArray:
        """Value that a new measurement does not exceed with probability `quantile`, shape (R,).

        One-sided, with groups and limits as in `predict_interval`.
        """
        return self._quantile(self.predict(X), quantile, self._places(np.asarray(X, np.float64)))

    def _interval(self, middle: FloatArray, coverage: float, places: Places) -> FloatArray:
        """Interval around predictions at such places, (R, 2)."""
        log = self._log(partial(self._scores().log_radius, coverage), places)
        unknown, factor = np.isinf(log), np.exp(np.minimum(log, _LARGEST_LOG))
        low, high = middle / factor, middle * factor
        return np.column_stack([np.where(unknown, 0.0, low), np.where(unknown, np.inf, high)])

    def _quantile(self, middle: FloatArray, quantile: float, places: Places) -> FloatArray:
        """Upper quantile of what is measured where predictions are such, (R,)."""
        log = self._log(partial(self._scores().log_quantile, quantile), places)
        found = middle * np.exp(np.minimum(log, _LARGEST_LOG))
        return np.asarray(np.where(np.isinf(log), np.inf, found))

    def _log(
        self, score: Callable[[npt.NDArray[np.generic], IntArray], FloatArray], places: Places
    ) -> FloatArray:
        """Log of the factor by which rows may be off, given its score by group and kind, (R,).

        Beyond what was measured it is no less than within: scores beyond come from rows far away,
        which say little about the first step.
        """
        groups, kinds, scale = places
        found = score(groups, kinds)
        # Where nothing is known, a score of 0 or less is no bound either.
        unknown = np.isinf(scale) | np.isinf(found)
        found[~unknown] *= scale[~unknown]
        found[unknown] = np.inf
        noise: NoiseScale | None = getattr(self, "noise_", None)
        beyond = kinds == BEYOND
        if noise is not None and beyond.any():
            near = groups[beyond]
            least = noise.within[near] * score(near, np.full(near.size, WITHIN))
            found[beyond] = np.maximum(found[beyond], least)
        return found

    def check_state(self, state: State) -> None:
        """Check what a file says of a fitted model, so that it can be asked.

        Raises
        ------
        FieldError
            Naming the first attribute that is missing, unknown, or not what a fit leaves.
        """
        columns = state.whole("n_features_in_", 1, _MOST_COLUMNS)
        if state.holds("feature_names_in_"):
            names = state.take("feature_names_in_")
            if np.shape(names) != (columns,) or not all(type(name) is str for name in names):
                raise state.refuse("feature_names_in_", "other entries", f"{columns} names")
        self._check_fitted(state, columns)
        self._check_residuals(state)
        state.number("residual_std_", nan=True)
        state.settings(*filter(state.holds, self._get_param_names()))
        state.end()

    def _check_residuals(self, state: State) -> None:
        rows = state.floats("residuals_", (None,)).shape
        state.array("residual_groups_", "iU", rows)
        state.array("residual_points_", "i", rows)
        state.array("residual_kinds_", "i", rows)

    def _scores(self) -> GroupedResiduals:
        return GroupedResiduals(
            self.residuals_,
            self.residual_groups_,
            points=self.residual_points_,
            kinds=self.residual_kinds_,
        )

    def _places(self, X: FloatArray) -> Places:
        """Group, kind and scale of every row, as in `HeldOut`, each of shape (R,).

        All alike unless overridden; the scale is infinite where nothing is known of residuals.
        """
        nothing = np.zeros(len(X), dtype=np.int64)
        return nothing, nothing, np.ones(len(X))

    @abstractmethod
    def _fit(self, X: FloatArray, y: FloatArray) -> None: ...

    @abstractmethod
    def _check_fitted(self, state: State, columns: int) -> None:
        """Take and check what `_fit` leaves, and parameters that are no plain value."""

    @abstractmethod
    def _predict(self, X: FloatArray) -> FloatArray: ...
