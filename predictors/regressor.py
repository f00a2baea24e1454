"""What time and memory models share: validation, held-out residuals, intervals."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lemix_opt.checks import FloatArray, IntArray
from predictors.intervals import GroupedResiduals, held_out_residuals


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
    residual_groups_ : ndarray, shape (R,)
        Group of each of them.
    residual_std_ : float
        Their root mean square: relative spread of one prediction, NaN without calibration.
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
        found, rows = np.empty(0), np.empty(0, dtype=np.int64)
        if self.calibrate:
            found, rows = self._held_out(data, target)
        squares = found**2
        self.residual_std_ = float(np.sqrt(squares.mean())) if found.size else float("nan")
        self.residuals_ = found / self._scale(data[rows])
        self.residual_groups_ = self._groups(data[rows])
        return self

    def _held_out(self, X: FloatArray, y: FloatArray) -> tuple[FloatArray, IntArray]:
        """Log residuals on held-out folds and the rows they belong to."""
        found = held_out_residuals(self, X, y)
        return found, np.arange(found.size)

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Predict values, shape (R,)."""
        check_is_fitted(self)
        return self._predict(validate_data(self, X, reset=False, dtype=np.float64))

    def predict_interval(self, X: npt.ArrayLike, coverage: float = 0.9) -> FloatArray:
        """Lower and upper value that hold a new measurement with probability `coverage`, (R, 2).

        Covers rows like those fitted on, also within every group of a class that has groups; see
        `GroupedResiduals`. Infinite where there are too few held-out rows for the coverage.
        """
        middle, scores, groups, scale = self._calibrated(X)
        factor = np.exp(scale * scores.log_radius(coverage, groups))
        return np.column_stack([middle / factor, middle * factor])

    def predict_quantile(self, X: npt.ArrayLike, quantile: float = 0.9) -> FloatArray:
        """Value that a new measurement does not exceed with probability `quantile`, shape (R,).

        One-sided, with groups and limits as in `predict_interval`.
        """
        middle, scores, groups, scale = self._calibrated(X)
        beyond = np.isinf(scale)
        log = np.where(beyond, 1.0, scale) * scores.log_quantile(quantile, groups)
        return np.asarray(np.where(beyond, np.inf, middle * np.exp(log)))

    def _calibrated(
        self, X: npt.ArrayLike
    ) -> tuple[FloatArray, GroupedResiduals, npt.NDArray[np.generic], FloatArray]:
        middle = self.predict(X)
        data = np.asarray(X, dtype=np.float64)
        scores = GroupedResiduals(self.residuals_, self.residual_groups_)
        return middle, scores, self._groups(data), self._scale(data)

    def _groups(self, X: FloatArray) -> npt.NDArray[np.generic]:
        """Group of every row within which intervals hold; one for all unless overridden, (R,)."""
        return np.zeros(len(X), dtype=np.int64)

    def _scale(self, X: FloatArray) -> FloatArray:
        """How wide a row's residuals are next to others'; 1 unless overridden, (R,).

        Infinite where nothing is known of them.
        """
        return np.ones(len(X))

    @abstractmethod
    def _fit(self, X: FloatArray, y: FloatArray) -> None: ...

    @abstractmethod
    def _predict(self, X: FloatArray) -> FloatArray: ...
