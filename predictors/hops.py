"""Seconds between two pipeline stages, by the bytes that are sent."""

from __future__ import annotations

from functools import cache
from importlib import resources

import msgspec
import numpy as np
from sklearn.base import clone

from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError, unknown
from predictors.errors_by_split import held_out_errors, random_fifths
from predictors.evidence import BEYOND, WITHIN, Evidence, NoiseScale
from predictors.folds import extrapolating_folds
from predictors.intervals import held_out_residuals, log_residuals, points
from predictors.regressor import CalibratedRegressor, HeldOut, Places, relative_nnls
from predictors.state import State

LINKS = ("within", "across")
"""Kinds of link: between GPUs of one machine, and between machines."""
_BREAKS = 200
"""Places at which two pieces are tried to meet."""
_LEAST_ROWS = 3
"""Rows a piece is fitted to at least."""


class HopModel(CalibratedRegressor):
    """Seconds = latency + bytes / bandwidth, neither negative, of least relative error.

    Bytes are the sum of the columns: the parts of one message. Links of different kinds need a
    model each. See `CalibratedRegressor` for `calibrate` and the residuals.

    Parameters
    ----------
    pieces : {1, 2}, default 1
        Two pieces have a formula each, below and from some number of bytes on, which `fit`
        chooses: networks change protocol with the size of a message.
    calibrate : bool, default True
        Whether `fit` also measures held-out residuals.

    Attributes
    ----------
    break_bytes_ : float
        Bytes from which the second piece holds; infinity with one piece.
    latency_s_, per_byte_s_ : ndarray, shape (2,)
        Coefficients of the pieces; equal with one piece.
    largest_ : float
        Most bytes that were measured.
    noise_ : NoiseScale
        How wide residuals are within what was measured, and per doubling beyond it, as fits without
        the largest sizes show it.
    """

    def __init__(self, pieces: int = 1, calibrate: bool = True) -> None:
        super().__init__(calibrate)
        self.pieces = pieces

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        if self.pieces not in (1, 2):
            raise FieldError(f"{self.pieces!r}", where="pieces", expected="1 or 2")
        sent = X.sum(axis=1)
        self.largest_, self.noise_ = float(np.max(sent)), _no_noise()
        whole, _ = _line(sent, y)
        self.break_bytes_ = float("inf")
        self.latency_s_, self.per_byte_s_ = np.repeat(whole[:, None], 2, axis=1)
        if self.pieces == 1:
            return
        ordered = np.sort(sent)
        # With both ends at least `_LEAST_ROWS` rows away.
        places = np.unique(ordered[_LEAST_ROWS : len(y) - _LEAST_ROWS + 1])
        step = max(1, places.size // _BREAKS)
        least = float("inf")
        for place in places[::step].tolist():
            below = sent < place
            if min(np.sum(below), np.sum(~below)) < _LEAST_ROWS:
                continue
            low, high = _line(sent[below], y[below]), _line(sent[~below], y[~below])
            if low[1] + high[1] < least:
                least = low[1] + high[1]
                self.break_bytes_ = place
                self.latency_s_, self.per_byte_s_ = np.column_stack([low[0], high[0]])

    def _check_fitted(self, state: State, columns: int) -> None:
        state.number("break_bytes_", infinite=True)
        state.floats("latency_s_", (2,), minimum=0)
        state.floats("per_byte_s_", (2,), minimum=0)
        state.number("largest_")
        noise, own = state.part("noise_", NoiseScale)
        noise.check_state(own, 1, 1)

    def _predict(self, X: FloatArray) -> FloatArray:
        sent = X.sum(axis=1)
        piece = (sent >= self.break_bytes_).astype(np.int64)
        return np.asarray(self.latency_s_[piece] + self.per_byte_s_[piece] * sent)

    def _held_out(self, X: FloatArray, y: FloatArray) -> HeldOut:
        at_random = held_out_residuals(self, X, y)
        found = [Evidence.within(np.arange(at_random.size), at_random, 1)]
        for held in extrapolating_folds(X.sum(axis=1, keepdims=True)):
            fitted = clone(self).set_params(calibrate=False).fit(X[~held], y[~held])
            missed = log_residuals(y[held], fitted.predict(X[held]))
            found.append(Evidence.beyond(np.flatnonzero(held), missed, fitted._doublings(X[held])))
        evidence = Evidence.together(found)
        group = np.zeros(evidence.rows.size, dtype=np.int64)
        self.noise_ = NoiseScale.of(evidence, np.zeros(len(y), dtype=np.int64))
        scale = self.noise_.scale(evidence.kinds, group, evidence.doublings)
        point = points(X)[evidence.rows]
        return HeldOut(evidence.residuals, scale, group, point, evidence.kinds)

    def _doublings(self, X: FloatArray) -> FloatArray:
        """How far beyond the most measured bytes, shape (R, 1)."""
        sent = np.maximum(X.sum(axis=1, keepdims=True), 1.0)
        return np.asarray(np.maximum(np.log2(sent / max(self.largest_, 1.0)), 0.0))

    def _places(self, X: FloatArray) -> Places:
        doublings, group = self._doublings(X), np.zeros(len(X), dtype=np.int64)
        kinds = np.where(doublings[:, 0] > 0, BEYOND, WITHIN)
        return group, kinds, self.noise_.scale(kinds, group, doublings)


def _no_noise() -> NoiseScale:
    return NoiseScale.of(Evidence.none(1), np.zeros(1, dtype=np.int64))


def _line(sent: FloatArray, y: FloatArray) -> tuple[FloatArray, float]:
    """Return latency and seconds per byte, and the squared relative error of the fit."""
    features = np.column_stack([np.ones(len(y)), sent])
    found = relative_nnls(features, y)
    error = (features @ found - y) / np.where(y > 0, y, 1.0)
    return found, float(np.sum(error**2))


class HopCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `HopModel` of one kind of link that ships with the package.

    Parameters
    ----------
    name, link : str
        Name of the measured machines, and which of their links this is.
    gpu : str
        GPUs that were measured.
    break_bytes : float or None
        Bytes from which the second coefficients hold; None with one piece.
    latency_s, per_byte_s : tuple of float, one per piece
        Coefficients.
    residual_std : float
        Relative spread of one measurement around the formula, from held-out folds.
    mape_pct : dict of str to float
        Error in percent on held-out points, by split.
    rows, max_bytes : int
        Measured points behind it, and how far they reach.
    source, sha256 : str
        Dataset with its licence, and the hash of the file.
    """

    name: str
    link: str
    gpu: str
    break_bytes: float | None
    latency_s: tuple[float, ...]
    per_byte_s: tuple[float, ...]
    residual_std: float
    mape_pct: dict[str, float]
    rows: int
    max_bytes: int
    source: str
    sha256: str

    def model(self) -> HopModel:
        """Return the formula as a fitted model, without residuals."""
        fitted = HopModel(pieces=len(self.latency_s), calibrate=False)
        fitted.break_bytes_ = float("inf") if self.break_bytes is None else self.break_bytes
        fitted.latency_s_ = np.array([self.latency_s[0], self.latency_s[-1]])
        fitted.per_byte_s_ = np.array([self.per_byte_s[0], self.per_byte_s[-1]])
        fitted.keep_residuals(HeldOut.alike(np.empty(0)))
        fitted.largest_, fitted.noise_ = float(self.max_bytes), _no_noise()
        fitted.residual_std_ = self.residual_std
        fitted.n_features_in_ = 1
        return fitted

    def __str__(self) -> str:
        parts = [
            f"{1e6 * latency:.3g} us + bytes / {1e-9 / per_byte:.4g} GB/s"
            for latency, per_byte in zip(self.latency_s, self.per_byte_s, strict=True)
        ]
        if self.break_bytes is not None:
            parts[1] += f" from {self.break_bytes / 1e6:.3g} MB on"
        errors = ", ".join(f"{split} {error:g} %" for split, error in self.mape_pct.items())
        return f"{'; '.join(parts)} ({self.source}); held-out error {errors}"


def fit_hop_calibration(
    name: str,
    link: str,
    sent_bytes: FloatArray,
    seconds: FloatArray,
    *,
    pieces: int,
    gpu: str,
    source: str,
    sha256: str,
) -> HopCalibration:
    """Fit the calibration of one link and measure its errors on held-out points.

    Held out are a random fifth of the points, and the largest half of the sizes.

    Parameters
    ----------
    name, link, gpu, source, sha256 : str
        See `HopCalibration`.
    sent_bytes, seconds : ndarray, shape (R,)
        Measured points.
    pieces : {1, 2}
        See `HopModel`.
    """
    X = sent_bytes[:, None]
    model = HopModel(pieces)
    fitted = HopModel(pieces).fit(X, seconds)
    half = float(np.median(sent_bytes))
    splits = {"random fifth": random_fifths(X), f"bytes > {half:.0f}": [sent_bytes <= half]}
    errors = held_out_errors(model, X, seconds, splits)
    used = slice(0, 1 if np.isinf(fitted.break_bytes_) else 2)
    return HopCalibration(
        name,
        link,
        gpu,
        None if np.isinf(fitted.break_bytes_) else fitted.break_bytes_,
        tuple(float(f"{c:.6g}") for c in fitted.latency_s_[used]),
        tuple(float(f"{c:.6g}") for c in fitted.per_byte_s_[used]),
        round(fitted.residual_std_, 4),
        {e.split: round(e.mape_pct, 2) for e in errors},
        len(seconds),
        int(np.max(sent_bytes)),
        source,
        sha256,
    )


@cache
def hop_calibrations() -> tuple[HopCalibration, ...]:
    """All packaged calibrations of links."""
    content = (resources.files("predictors") / "hop_calibrations.json").read_bytes()
    return tuple(msgspec.json.decode(content, type=list[HopCalibration]))


def load_hop_calibrations(name: str) -> dict[str, HopCalibration]:
    """Return the calibrations of some machines by link; an unknown name raises.

    Raises
    ------
    UnknownNameError
        Naming the nearest known one.
    """
    found = {c.link: c for c in hop_calibrations() if c.name == name}
    if not found:
        raise unknown("hop calibration", name, {c.name for c in hop_calibrations()})
    return found


def load_hops(name: str) -> dict[str, HopModel]:
    """Return the packaged hop models of some machines by link, as `estimate_costs` takes them."""
    return {link: found.model() for link, found in load_hop_calibrations(name).items()}
