"""Loss by the number of updates a replica contains: a model of quality, not a measurement of it."""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from lemix_opt.checks import FloatArray, IntArray, floats, integers, whole
from lemix_opt.errors import FieldError, FileFormatError, unknown
from lemix_opt.files import read_content, write_atomically
from predictors.intervals import conformal_factor, log_residuals

STEPS = 100
"""Updates after which the learning rate of the published LeMix code has fallen to 0."""
_MAX_BYTES = 2**20


class LossCurve(BaseEstimator):  # type: ignore[misc]
    """Loss = floor + drop · exp(−rate · progress), none of them negative, of least squared error.

    Progress is the sum of the learning rates of the updates so far in units of the first one. The
    rate falls linearly to 0 over `steps` updates, as published, so that later updates change
    nothing.

    This is a model. Replicas that were trained apart are taken to differ in the number of their
    updates alone, and a request's quality to be the held-out loss.

    Parameters
    ----------
    steps : int or None, default 100
        Updates over which the learning rate falls to 0; None for a rate that stays.

    Attributes
    ----------
    floor_, drop_, rate_ : float
        Coefficients.
    residuals_ : ndarray, shape (R,)
        Log residuals of each run, predicted by a curve fitted to the others; empty for one run.
    residual_std_ : float
        Their root mean square: relative spread of a run around the curve, NaN for one run.
    """

    def __init__(self, steps: int | None = STEPS) -> None:
        self.steps = steps

    def fit(self, updates: npt.ArrayLike, loss: npt.ArrayLike, run: npt.ArrayLike = 0) -> Self:
        """Fit to recorded losses.

        Parameters
        ----------
        updates : array_like of int, shape (R,)
            Updates done when the loss was taken.
        loss : array_like, shape (R,)
            Held-out loss, more than 0.
        run : array_like of int, shape (R,), default 0
            Which recording a row belongs to, for instance its seed; points of one run depend on
            each other, and are held out together.

        Raises
        ------
        FieldError
            If a value is out of range, or there are fewer than three distinct numbers of updates.
        """
        done = integers("updates", updates, minimum=0)
        target = floats("loss", loss, done.shape, above=0)
        runs = integers("run", run, done.shape)
        if done.ndim != 1 or np.unique(done).size < 3:
            raise FieldError(
                f"{np.unique(done).size} distinct numbers of updates",
                where="updates",
                expected="at least three, in one dimension",
            )
        progress = self._progress(done)
        self.floor_, self.drop_, self.rate_ = _fit_exponential(progress, target)
        self.residuals_ = np.empty(0)
        distinct = np.unique(runs)
        if distinct.size > 1:
            self.residuals_ = np.empty(done.size)
            for held in distinct:
                test = runs == held
                others = clone(self).fit(done[~test], target[~test])
                self.residuals_[test] = log_residuals(target[test], others.predict(done[test]))
        self.residual_std_ = _spread(self.residuals_)
        return self

    def predict(self, updates: npt.ArrayLike) -> FloatArray:
        """Predict the loss after some numbers of updates, in the shape of `updates`."""
        check_is_fitted(self)
        progress = self._progress(integers("updates", updates, minimum=0))
        return np.asarray(self.floor_ + self.drop_ * np.exp(-self.rate_ * progress))

    def predict_interval(self, updates: npt.ArrayLike, coverage: float = 0.9) -> FloatArray:
        """Lower and upper loss of a new run, shape (..., 2).

        From residuals of whole runs that were left out, which hold for runs like them. Points of a
        run depend on each other, so that a few runs say little about large coverages.
        """
        middle = self.predict(updates)
        factor = conformal_factor(self.residuals_, coverage)
        return np.stack([middle / factor, middle * factor], axis=-1)

    def _progress(self, updates: IntArray) -> FloatArray:
        if self.steps is None:
            return updates.astype(np.float64)
        steps = whole("steps", self.steps, minimum=1)
        done = np.minimum(updates, steps).astype(np.float64)
        return np.asarray(done - done * (done - 1) / (2 * steps))


def _spread(residuals: FloatArray) -> float:
    return float(np.sqrt(np.mean(residuals**2))) if residuals.size else float("nan")


def _fit_exponential(progress: FloatArray, loss: FloatArray) -> tuple[float, float, float]:
    """Return floor, drop and rate of least squared error."""
    low, high = float(np.min(loss)), float(np.max(loss))
    span = float(np.ptp(progress))

    def error(found: FloatArray) -> FloatArray:
        floor, drop, rate = found
        return np.asarray(floor + drop * np.exp(-rate * progress) - loss)

    start = [low, max(high - low, 1e-6), 3 / span]
    scale = [max(abs(s), 1e-9) for s in start]
    floor, drop, rate = least_squares(error, start, bounds=(0, np.inf), x_scale=scale).x.tolist()
    return floor, drop, rate


def expected_loss(curve: Any, updates: npt.ArrayLike) -> float:
    """Return the mean over requests of the loss that a curve predicts; NaN without requests.

    Parameters
    ----------
    curve : LossCurve or another fitted model of updates
        What predicts the loss.
    updates : array_like of int, shape (T,)
        Updates behind every request, as in `lemix_opt.freshness.Freshness`; −1 for none.
    """
    behind = integers("updates", updates, minimum=-1)
    served = behind[behind >= 0]
    return float(np.mean(curve.predict(served))) if served.size else float("nan")


class SavedLossCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted curve with what is known about its origin.

    Parameters
    ----------
    name : str
        Name of the calibration.
    steps : int or None
        See `LossCurve`.
    floor, drop, rate : float
        Coefficients.
    residuals : tuple of float
        Log residuals of runs that were left out; rounded in what ships with the package.
    runs, rows : int
        Recorded runs and points behind it.
    source : str
        What was recorded, on what.
    """

    name: str
    steps: int | None
    floor: float
    drop: float
    rate: float
    residuals: tuple[float, ...]
    runs: int
    rows: int
    source: str

    def __post_init__(self) -> None:
        if self.steps is not None:
            whole("steps", self.steps, minimum=1)
        for name in ("floor", "drop", "rate", "residuals"):
            floats(name, getattr(self, name), minimum=None if name == "residuals" else 0)
        floats("floor + drop", self.floor + self.drop)

    def curve(self) -> LossCurve:
        """Return the fitted curve."""
        fitted = LossCurve(self.steps)
        fitted.floor_, fitted.drop_, fitted.rate_ = self.floor, self.drop, self.rate
        fitted.residuals_ = np.array(self.residuals)
        fitted.residual_std_ = _spread(fitted.residuals_)
        return fitted


def save_loss_curve(
    curve: LossCurve,
    path: str | os.PathLike[str],
    *,
    name: str,
    runs: int,
    rows: int,
    source: str,
) -> None:
    """Write a fitted curve as JSON, see `SavedLossCurve`; the file appears whole or not at all."""
    check_is_fitted(curve)
    saved = SavedLossCurve(
        name,
        curve.steps,
        curve.floor_,
        curve.drop_,
        curve.rate_,
        tuple(curve.residuals_.tolist()),
        runs,
        rows,
        source,
    )
    write_atomically(Path(path), msgspec.json.format(msgspec.json.encode(saved), indent=1))


def read_loss_curve(path: str | os.PathLike[str]) -> SavedLossCurve:
    """Read a curve that `save_loss_curve` wrote; nothing in it is run.

    Raises
    ------
    FileFormatError
        If the file is no such curve.
    """
    content = read_content(Path(path), "a saved loss curve", _MAX_BYTES)
    try:
        return msgspec.json.decode(content, type=SavedLossCurve)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileFormatError(
            f"not a saved loss curve ({error})",
            where=str(path),
            expected="a file of save_loss_curve",
        ) from None


@cache
def loss_curves() -> dict[str, SavedLossCurve]:
    """All packaged curves by name."""
    content = (resources.files("predictors") / "loss_curves.json").read_bytes()
    return {c.name: c for c in msgspec.json.decode(content, type=list[SavedLossCurve])}


def load_loss_curve(name: str) -> LossCurve:
    """Return the packaged curve called `name`; an unknown name raises `UnknownNameError`."""
    known = loss_curves()
    if name not in known:
        raise unknown("loss curve", name, known)
    return known[name].curve()
