"""Time of an operation from the shape of its batch: three models of increasing freedom.

All are scikit-learn regressors over two columns, batch rows and length in tokens, and predict
seconds (or whatever unit the target has). In general the last column is the length and the product
of the columns before it the number of rows, so that micro-batches can stand apart.
"""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import FloatArray, choice
from predictors.binary_trees import BinaryTrees
from predictors.intervals import log_residuals
from predictors.regressor import CalibratedRegressor, relative_nnls
from predictors.state import State


def shape_features(X: FloatArray) -> FloatArray:
    """Return (1, tokens, rows·length²) of every row, shape (R, 3)."""
    length = X[:, -1]
    tokens = np.prod(X, axis=1)
    return np.column_stack([np.ones(len(X)), tokens, tokens * length])


class TimeModel(CalibratedRegressor):
    """Base of the time models over batch rows and length, see `CalibratedRegressor`."""


class AnalyticTimeModel(TimeModel):
    """constant + a·tokens + b·rows·length², all coefficients at least 0, least relative error.

    Attributes
    ----------
    coef_ : ndarray, shape (3,)
        Seconds, seconds per token, seconds per row and squared token.
    """

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        self.coef_ = relative_nnls(shape_features(X), y)

    def _check_fitted(self, state: State, columns: int) -> None:
        state.floats("coef_", (3,), minimum=0)

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

    def _check_fitted(self, state: State, columns: int) -> None:
        state.number("eta_")

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
        grown = GradientBoostingRegressor(
            n_estimators=self.n_estimators,
            learning_rate=self.learning_rate,
            max_depth=self.max_depth,
            min_samples_leaf=self.min_samples_leaf,
            random_state=self.random_state,
        ).fit(logs, log_residuals(y, self.base_.predict(X)))
        self.correction_ = BinaryTrees.of(grown, logs)

    def _check_fitted(self, state: State, columns: int) -> None:
        base, own = state.part("base_", AnalyticTimeModel)
        base.check_state(own)
        if base.n_features_in_ != columns:
            raise own.refuse("n_features_in_", str(base.n_features_in_), str(columns))
        logs = columns + 1
        state.floats("low_", (logs,))
        state.floats("high_", (logs,))
        trees, own = state.part("correction_", BinaryTrees)
        trees.check_state(own, logs)

    def _logs(self, X: FloatArray) -> FloatArray:
        columns = np.column_stack([X, np.prod(X, axis=1)])
        return np.asarray(np.sign(columns) * np.log1p(np.abs(columns)))

    def _predict(self, X: FloatArray) -> FloatArray:
        logs = np.clip(self._logs(X), self.low_, self.high_)
        return np.asarray(self.base_.predict(X) * np.exp(self.correction_.predict(logs)))
