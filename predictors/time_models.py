"""Time of an operation from the shape of its batch: three models of increasing freedom.

All are scikit-learn regressors over two columns, batch rows and length in tokens, and predict
seconds (or whatever unit the target has). In general the last column is the length and the product
of the columns before it the number of rows, so that micro-batches can stand apart.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lemix_opt.checks import FloatArray, choice
from predictors.intervals import conformal_factor, held_out_residuals, log_residuals


def shape_features(X: FloatArray) -> FloatArray:
    """Return (1, tokens, rows·length²) of every row, shape (R, 3)."""
    length = X[:, -1]
    tokens = np.prod(X, axis=1)
    return np.column_stack([np.ones(len(X)), tokens, tokens * length])


def relative_weights(y: FloatArray) -> FloatArray:
    """Weights that turn squared errors into relative ones; 1 where the target is not positive."""
    return np.where(y > 0, 1 / np.where(y > 0, y, 1.0), 1.0)


class TimeModel(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the time models; subclasses give `_fit` and `_predict`.

    Parameters
    ----------
    calibrate : bool, default True
        Whether `fit` also measures held-out residuals (5 folds), which `predict_interval` needs.

    Attributes
    ----------
    residuals_ : ndarray, shape (R,)
        Log residuals on held-out folds.
    residual_std_ : float
        Their root mean square: relative spread of one prediction, NaN without calibration.
    """

    def __init__(self, calibrate: bool = True) -> None:
        self.calibrate = calibrate

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Times grow with the batch; scikit-learn's generic data sets do not behave like that.
        tags.regressor_tags.poor_score = True
        return tags

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Fit to measured times.

        Parameters
        ----------
        X : array_like, shape (R, 2)
            Batch rows and length in tokens.
        y : array_like, shape (R,)
            Seconds.
        """
        data, target = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        target = np.asarray(target, dtype=np.float64)
        self._fit(data, target)
        self.residuals_ = held_out_residuals(self, data, target) if self.calibrate else np.empty(0)
        squares = self.residuals_**2
        self.residual_std_ = float(np.sqrt(squares.mean())) if squares.size else float("nan")
        return self

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Predict times, shape (R,)."""
        check_is_fitted(self)
        return self._predict(validate_data(self, X, reset=False, dtype=np.float64))

    def predict_interval(self, X: npt.ArrayLike, coverage: float = 0.9) -> FloatArray:
        """Lower and upper time that hold a new measurement with probability `coverage`, (R, 2)."""
        middle = self.predict(X)
        factor = conformal_factor(self.residuals_, coverage)
        return np.column_stack([middle / factor, middle * factor])

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        raise NotImplementedError

    def _predict(self, X: FloatArray) -> FloatArray:
        raise NotImplementedError


class AnalyticTimeModel(TimeModel):
    """constant + a·tokens + b·rows·length², all coefficients at least 0, least relative error.

    Attributes
    ----------
    coef_ : ndarray, shape (3,)
        Seconds, seconds per token, seconds per row and squared token.
    """

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        features = shape_features(X) * relative_weights(y)[:, None]
        scale = np.linalg.norm(features, axis=0)
        scale[scale == 0] = 1.0
        found, _ = nnls(features / scale, y * relative_weights(y))
        self.coef_ = found / scale

    def _predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(shape_features(X) @ self.coef_)


class ReferenceTimeModel(TimeModel):
    """η·rows·length², the model of the published LeMix code.

    Parameters
    ----------
    rule : {"mean_ratio", "least_relative_error"}, default "mean_ratio"
        η as published, the mean of time/(rows·length²), which short lengths dominate; or the one
        of least relative squared error.
    calibrate : bool, default True
        See `TimeModel`.

    Attributes
    ----------
    eta_ : float
        Seconds per row and squared token.
    """

    def __init__(self, rule: str = "mean_ratio", calibrate: bool = True) -> None:
        super().__init__(calibrate)
        self.rule = rule

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        choice("rule", self.rule, ("mean_ratio", "least_relative_error"))
        size = shape_features(X)[:, 2]
        good = (size > 0) & (y > 0)
        ratio = y[good] / size[good]
        if not ratio.size:
            self.eta_ = 0.0
        elif self.rule == "mean_ratio":
            self.eta_ = float(ratio.mean())
        else:
            self.eta_ = float(np.sum(1 / ratio) / np.sum(1 / ratio**2))

    def _predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(self.eta_ * shape_features(X)[:, 2])


class BoostedTimeModel(TimeModel):
    """`AnalyticTimeModel` times exp(gradient boosting of its log residual).

    Outside the range of rows, length or tokens that was fitted on, the correction is that of the
    range's edge, so that the analytic growth carries the extrapolation.

    Parameters
    ----------
    n_estimators, learning_rate, max_depth, min_samples_leaf
        As in `sklearn.ensemble.GradientBoostingRegressor`.
    random_state : int, default 0
        Seed of the boosting.
    calibrate : bool, default True
        See `TimeModel`.
    """

    def __init__(
        self,
        n_estimators: int = 300,
        learning_rate: float = 0.05,
        max_depth: int = 4,
        min_samples_leaf: int = 2,
        random_state: int | None = 0,
        calibrate: bool = True,
    ) -> None:
        super().__init__(calibrate)
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.random_state = random_state

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        from sklearn.ensemble import GradientBoostingRegressor

        self.base_ = AnalyticTimeModel(calibrate=False).fit(X, y)
        logs = self._logs(X)
        self.low_, self.high_ = logs.min(axis=0), logs.max(axis=0)
        self.correction_ = GradientBoostingRegressor(
            n_estimators=self.n_estimators,
            learning_rate=self.learning_rate,
            max_depth=self.max_depth,
            min_samples_leaf=self.min_samples_leaf,
            random_state=self.random_state,
        ).fit(logs, log_residuals(y, self.base_.predict(X)))

    def _logs(self, X: FloatArray) -> FloatArray:
        columns = np.column_stack([X, np.prod(X, axis=1)])
        return np.asarray(np.sign(columns) * np.log1p(np.abs(columns)))

    def _predict(self, X: FloatArray) -> FloatArray:
        logs = np.clip(self._logs(X), self.low_, self.high_)
        return np.asarray(self.base_.predict(X) * np.exp(self.correction_.predict(logs)))
