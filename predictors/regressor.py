"""What time and memory models share: validation, held-out residuals, intervals."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lemix_opt.checks import FloatArray
from predictors.intervals import conformal_factor, held_out_residuals


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
        Log residuals on held-out folds; empty without calibration.
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
        self.residuals_ = held_out_residuals(self, data, target) if self.calibrate else np.empty(0)
        squares = self.residuals_**2
        self.residual_std_ = float(np.sqrt(squares.mean())) if squares.size else float("nan")
        return self

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Predict values, shape (R,)."""
        check_is_fitted(self)
        return self._predict(validate_data(self, X, reset=False, dtype=np.float64))

    def predict_interval(self, X: npt.ArrayLike, coverage: float = 0.9) -> FloatArray:
        """Lower and upper value that hold a new measurement with probability `coverage`, (R, 2)."""
        middle = self.predict(X)
        factor = conformal_factor(self.residuals_, coverage)
        return np.column_stack([middle / factor, middle * factor])

    @abstractmethod
    def _fit(self, X: FloatArray, y: FloatArray) -> None: ...

    @abstractmethod
    def _predict(self, X: FloatArray) -> FloatArray: ...
