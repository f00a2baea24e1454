"""Times of several operations of one run: whether they share a shape, and how they scatter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from predictors.folds import random_folds
from predictors.intervals import points
from predictors.registry import PREDICTORS

_ROUNDS = 4
"""Alternations of common shape and factors; more change neither in practice."""
_AS_PUBLISHED = "reference"
"""The model whose scale is its definition: it keeps it, so that its error can be seen."""


@dataclass(frozen=True, eq=False)
class Timed:
    """Executed operations, one row each.

    Parameters
    ----------
    shapes : ndarray, shape (R, F)
        Columns of the time model.
    seconds : ndarray, shape (R,)
        What they took, more than 0.
    operation : ndarray of int, shape (R,)
        Number of the operation a row is an execution of.
    """

    shapes: FloatArray
    seconds: FloatArray
    operation: IntArray

    def where(self, rows: IntArray) -> Timed:
        """Return some rows."""
        return Timed(self.shapes[rows], self.seconds[rows], self.operation[rows])


class OperationTimes:
    """A time model of several operations, whose totals are right for each of them.

    A fit of least relative error lies below the mean where times scatter: by twice the variance,
    8 % at a scatter of 20 %. Queues grow with the sum of the work, so that every operation is
    scaled to its own sum. What is common to all is a shape: seconds of one operation are a
    multiple of those of another, which they are as far as both run the same layers.

    Parameters
    ----------
    model : str
        Time model out of `predictors.registry.PREDICTORS`. ``"reference"`` is not scaled.
    timed : Timed
        What it is fitted to.
    shared : bool
        One shape for all operations, or one for each.
    """

    def __init__(self, model: str, timed: Timed, *, shared: bool) -> None:
        self.model, self.shared = model, shared
        known = np.unique(timed.operation).tolist()
        self._shape: dict[int, Any] = {}
        self._factor = dict.fromkeys(known, 1.0)
        if shared:
            for _ in range(_ROUNDS):
                scaled = timed.seconds / np.array([self._factor[g] for g in timed.operation])
                self._shape = dict.fromkeys(known, self._fit(timed.shapes, scaled))
                self._scale(timed)
            return
        for g in known:
            own = timed.where(np.flatnonzero(timed.operation == g))
            self._shape[g] = self._fit(own.shapes, own.seconds)
        if model != _AS_PUBLISHED:
            self._scale(timed)

    def predict(self, shapes: FloatArray, operation: IntArray) -> FloatArray:
        """Predict seconds, shape (R,); NaN for an operation that was not fitted."""
        found = np.full(len(shapes), np.nan)
        for g in np.unique(operation).tolist():
            if g in self._shape:
                own = operation == g
                found[own] = self._factor[g] * self._shape[g].predict(shapes[own])
        return found

    def _fit(self, shapes: FloatArray, seconds: FloatArray) -> Any:
        return PREDICTORS.create(self.model, calibrate=False).fit(shapes, seconds)

    def _scale(self, timed: Timed) -> None:
        for g in self._factor:
            own = timed.operation == g
            self._factor[g] = float(
                timed.seconds[own].sum() / self._shape[g].predict(timed.shapes[own]).sum()
            )


@dataclass(frozen=True, eq=False)
class Scatter:
    """How the times of a run lie around what a model that has not seen them predicts.

    Operations scatter together for a while when a machine gets slower or faster, so that times
    are drawn in blocks of the run's order (moving-block bootstrap, Kuensch 1989).

    Parameters
    ----------
    standard : ndarray, shape (R,)
        Log of seconds over predicted, without the mean and in units of the spread of its
        operation, in the order of the run.
    mean, spread : ndarray, shape (G,)
        By number of the operation.
    """

    standard: FloatArray
    mean: FloatArray
    spread: FloatArray

    def draw(self, operation: IntArray, rng: np.random.Generator) -> FloatArray:
        """Draw factors on predicted seconds for operations in the order of a run, shape (R,)."""
        size = self.standard.size
        block = int(np.ceil(np.sqrt(size)))
        starts = rng.integers(0, size, -(-operation.size // block))
        # Circular, so that the ends of the run are drawn as often as its middle.
        rows = (starts[:, None] + np.arange(block)) % size
        drawn = self.standard[rows.ravel()[: operation.size]]
        # An operation that was never timed has no scatter either.
        own = np.minimum(operation, self.mean.size - 1)
        return np.asarray(np.exp(self.mean[own] + self.spread[own] * drawn))


def fit_times(model: str, timed: Timed) -> tuple[OperationTimes, Scatter]:
    """Fit a model to a run, with or without a common shape, as predicts held-out shapes better.

    Parameters
    ----------
    model : str
        Time model out of `predictors.registry.PREDICTORS`.
    timed : Timed
        The run, in its order. Folds hold whole shapes out.

    Returns
    -------
    times : OperationTimes
        Of least gamma deviance, the likelihood of a scatter that grows with the time.
    scatter : Scatter
        Of held-out rows.
    """
    choices = (False,) if model == _AS_PUBLISHED else (False, True)
    ratios = {shared: _held_out(model, timed, shared=shared) for shared in choices}
    shared = min(choices, key=lambda chosen: _deviance(ratios[chosen]))
    logs = np.log(ratios[shared])
    groups = int(timed.operation.max()) + 1
    mean, spread = np.zeros(groups), np.zeros(groups)
    known = np.isfinite(logs)
    standard = np.zeros(logs.size)
    for g in range(groups):
        own = known & (timed.operation == g)
        if own.sum() > 1:
            mean[g], spread[g] = logs[own].mean(), logs[own].std()
            standard[own] = (logs[own] - mean[g]) / (spread[g] or 1.0)
    return OperationTimes(model, timed, shared=shared), Scatter(standard, mean, spread)


def drawn_times(
    model: str, timed: Timed, found: tuple[OperationTimes, Scatter], rng: np.random.Generator
) -> OperationTimes:
    """Fit again to a run as it might have been: the same operations, times drawn anew."""
    times, scatter = found
    seconds = times.predict(timed.shapes, timed.operation) * scatter.draw(timed.operation, rng)
    again = Timed(timed.shapes, seconds, timed.operation)
    return OperationTimes(model, again, shared=times.shared)


def _held_out(model: str, timed: Timed, *, shared: bool) -> FloatArray:
    """Seconds over those predicted without the row's shape, shape (R,); NaN where not known."""
    found = np.full(len(timed.seconds), np.nan)
    for held in _folds(timed):
        fitted = OperationTimes(model, timed.where(np.flatnonzero(~held)), shared=shared)
        predicted = fitted.predict(timed.shapes[held], timed.operation[held])
        found[held] = timed.seconds[held] / np.where(predicted > 0, predicted, np.nan)
    return found


def _folds(timed: Timed) -> Iterator[BoolArray]:
    for held in random_folds(points(timed.shapes), seed=0):
        if not held.all():
            yield held


def _deviance(ratios: FloatArray) -> float:
    known = ratios[np.isfinite(ratios)]
    return float(np.mean(known - 1 - np.log(known))) if known.size else 0.0
