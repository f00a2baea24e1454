"""Small time calibrations that ship with the package, each with its source and its error."""

from __future__ import annotations

from functools import cache
from importlib import resources
from statistics import NormalDist

import msgspec
import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.errors import unknown
from predictors.errors_by_split import split_errors
from predictors.regressor import HeldOut
from predictors.time_models import AnalyticTimeModel

_SCORES = 999


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whole-model prefill seconds = constant + a·tokens + b·rows·length², fitted to measurements.

    Parameters
    ----------
    name : str
        Name of the calibration.
    model, gpu : str
        What was measured, on what.
    gpus : int
        GPUs one measurement used (tensor parallelism).
    constant_s, per_token_s, per_row_length2_s : float
        Coefficients.
    residual_std : float
        Relative spread of one measurement around the formula, from held-out folds.
    mape_pct : dict of str to float
        Error in percent on held-out points, by split.
    rows, max_length, max_tokens : int
        Measured runs behind it, and how far they reach.
    source, sha256 : str
        Dataset with its licence, and the hash of the file.
    """

    name: str
    model: str
    gpu: str
    gpus: int
    constant_s: float
    per_token_s: float
    per_row_length2_s: float
    residual_std: float
    mape_pct: dict[str, float]
    rows: int
    max_length: int
    max_tokens: int
    source: str
    sha256: str

    def time_model(self) -> AnalyticTimeModel:
        """Return the formula as a fitted time model.

        Its residuals are log-normal with the stored spread, at `_SCORES` equal steps.
        """
        fitted = AnalyticTimeModel(calibrate=False)
        fitted.coef_ = np.array([self.constant_s, self.per_token_s, self.per_row_length2_s])
        fitted.n_features_in_ = 2
        normal = NormalDist(0.0, self.residual_std)
        steps = (np.arange(_SCORES) + 0.5) / _SCORES
        fitted.keep_residuals(HeldOut.alike(np.array([normal.inv_cdf(step) for step in steps])))
        fitted.residual_std_ = self.residual_std
        return fitted


def fit_calibration(
    name: str,
    X: FloatArray,
    seconds: FloatArray,
    *,
    model: str,
    gpu: str,
    gpus: int,
    longest: float,
    most_tokens: float,
    source: str,
    sha256: str,
) -> Calibration:
    """Fit a calibration and measure its errors on held-out points; see `Calibration`."""
    fitted = AnalyticTimeModel().fit(X, seconds)
    errors = split_errors(AnalyticTimeModel(), X, seconds, longest, most_tokens)
    constant, per_token, per_square = (float(f"{c:.6g}") for c in fitted.coef_)
    return Calibration(
        name,
        model,
        gpu,
        gpus,
        constant,
        per_token,
        per_square,
        round(fitted.residual_std_, 4),
        {e.split: round(e.mape_pct, 2) for e in errors},
        len(seconds),
        int(np.max(X[:, -1])),
        int(np.max(np.prod(X, axis=1))),
        source,
        sha256,
    )


@cache
def calibrations() -> dict[str, Calibration]:
    """All packaged calibrations by name."""
    content = (resources.files("predictors") / "calibrations.json").read_bytes()
    return {c.name: c for c in msgspec.json.decode(content, type=list[Calibration])}


def load_calibration(name: str) -> Calibration:
    """Return the calibration called `name`; an unknown name raises `UnknownNameError`."""
    known = calibrations()
    if name not in known:
        raise unknown("calibration", name, known)
    return known[name]
