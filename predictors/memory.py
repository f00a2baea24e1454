"""Bytes on a GPU: what is always there, what a task holds, and a correction learned from runs."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lemix_opt.checks import BoolArray, FloatArray, IntArray, choice, whole
from predictors.intervals import conformal_factor, held_out_residuals
from predictors.model_shapes import ModelShape
from predictors.time_models import relative_weights

STATE_BYTES = {"none": 2.0, "host": 4.0, "gpu": 16.0}
"""Bytes per parameter by where the optimizer lives: weights alone; weights and gradients with
the optimizer in host memory; mixed-precision Adam (Rajbhandari et al. 2020, section 3.1)."""

_ACTIVATION_BYTES = 34.0
"""Per token, hidden unit and layer, without the attention matrix, which memory-efficient kernels
do not store (Korthikanti et al. 2022, equation 2, with its s² term left out)."""


def resident_bytes(shape: ModelShape, stages: int, optimizer: str) -> float:
    """Bytes of weights and training state on every stage, layers split evenly.

    Parameters
    ----------
    shape : ModelShape
        The model.
    stages : int
        Pipeline stages S.
    optimizer : {"none", "host", "gpu"}
        Where the optimizer's state lives, see `STATE_BYTES`.
    """
    choice("optimizer", optimizer, tuple(STATE_BYTES))
    return STATE_BYTES[optimizer] * shape.parameters / whole("stages", stages, minimum=1)


def held_bytes(shape: ModelShape, stages: int, tokens: IntArray, training: BoolArray) -> FloatArray:
    """Bytes every task holds on a stage, shape (T,).

    Training holds the activations of the stage's layers; inference holds keys and values of the
    stage's layers and the working set of one layer (hidden state in and out, MLP), at 2 bytes a
    number.

    Parameters
    ----------
    shape : ModelShape
        The model.
    stages : int
        Pipeline stages S.
    tokens : ndarray of int, shape (T,)
        Rows times length of every task.
    training : ndarray of bool, shape (T,)
        Which tasks train.
    """
    layers = shape.layers / whole("stages", stages, minimum=1)
    kept = _ACTIVATION_BYTES * shape.hidden * layers
    served = shape.kv_bytes_per_token / stages + 2.0 * (2 * shape.hidden + shape.intermediate)
    return np.asarray(np.where(training, kept, served) * tokens)


class MemoryModel(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Measured peak = constant + Σ factor·part, factors at least 0, least relative error.

    Columns are physical estimates in bytes (states, activations, …); the factors are the learned
    correction of each.

    Parameters
    ----------
    calibrate : bool, default True
        Whether `fit` also measures held-out residuals, which `predict_interval` needs.

    Attributes
    ----------
    constant_ : float
        Bytes that are always there.
    factor_ : ndarray, shape (F,)
        Correction of every column.
    """

    def __init__(self, calibrate: bool = True) -> None:
        self.calibrate = calibrate

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Parts of memory add up; scikit-learn's generic targets can fall with a column.
        tags.regressor_tags.poor_score = True
        return tags

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Fit to measured peaks.

        Parameters
        ----------
        X : array_like, shape (R, F)
            Physical parts in bytes.
        y : array_like, shape (R,)
            Measured bytes.
        """
        data, target = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        target = np.asarray(target, dtype=np.float64)
        weights = relative_weights(target)
        features = np.column_stack([np.ones(len(data)), data]) * weights[:, None]
        scale = np.linalg.norm(features, axis=0)
        scale[scale == 0] = 1.0
        found = nnls(features / scale, target * weights)[0] / scale
        self.constant_, self.factor_ = float(found[0]), found[1:]
        self.residuals_ = held_out_residuals(self, data, target) if self.calibrate else np.empty(0)
        return self

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Predict bytes, shape (R,)."""
        check_is_fitted(self)
        data = validate_data(self, X, reset=False, dtype=np.float64)
        return np.asarray(self.constant_ + data @ self.factor_)

    def predict_interval(self, X: npt.ArrayLike, coverage: float = 0.9) -> FloatArray:
        """Lower and upper bytes that hold a new measurement with probability `coverage`, (R, 2)."""
        middle = self.predict(X)
        factor = conformal_factor(self.residuals_, coverage)
        return np.column_stack([middle / factor, middle * factor])
