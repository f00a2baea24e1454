"""Time of any operation: physics first, then a learned correction that fades where nothing is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray
from predictors.boosting import SymmetricTrees
from predictors.efficiencies import TermTree, distinct_rows, find_rows, overlap
from predictors.evidence import WITHIN, NoiseScale, kind_of
from predictors.intervals import points
from predictors.measured_range import MOST_DOUBLINGS, SIZES, MeasuredRange, log_sizes
from predictors.operation_fit import (
    ASKED,
    LEVELS,
    Choices,
    Fitted,
    Levels,
    Settings,
    asked_of,
    asked_within,
    fit_operations,
)
from predictors.operation_terms import BLOCKS, TERMS, TYPICAL, terms
from predictors.operations import COLUMNS, check_operations
from predictors.regressor import CalibratedRegressor, HeldOut, Places
from predictors.state import State

LABELS = ("measured", "interpolated", "extrapolated", "theoretical")
"""Where a prediction comes from: the very point was measured; it lies within what was measured of
this model on this GPU; it lies beyond, or model or GPU are new; nothing of its kind was measured
and rules of thumb are all there is."""
MEASURED, INTERPOLATED, EXTRAPOLATED, THEORETICAL = range(4)

_CHUNK = 16_000
_BLOCK = 500
"""Rows that the processor's cache holds twice."""


class OperationTimeModel(CalibratedRegressor):
    """Seconds of operations: terms at peak rates, fitted by group, times a boosted correction.

    Rows are those of `predictors.operation_rows`. Coefficients of the terms are fitted for each
    kind of operation, each GPU type, and each model on it, the narrower leaning on the wider
    (`predictors.efficiencies`); an unseen GPU or model has those of the widest group that is known,
    at its own peak rates. The correction is `predictors.boosting` of the log residuals on held-out
    folds. How far groups may differ, and how much of the correction counts within and beyond what
    was measured, are chosen on random folds and on folds that hold out the largest sizes, so that
    the correction is left out where it does not help.

    Parameters
    ----------
    trees, depth, rate, ridge
        Of the correction, see `predictors.boosting.boost`.
    sharpness : float, default 2
        How well launches, memory and computing overlap, see `predictors.efficiencies.overlap`.
    random_state : int, default 0
        Seed of folds and boosting.
    calibrate : bool, default True
        Whether held-out residuals are kept, which intervals need.
    choices : Choices, optional
        Taken over from another fit (`choices_`) instead of being chosen anew, which takes most of
        the time of a fit without calibration.

    Attributes
    ----------
    choices_ : Choices
        What was chosen.
    physics_ : TermTree
        Coefficients.
    trees_ : SymmetricTrees
        Correction.
    range_ : MeasuredRange
        Sizes that were measured, by group.
    noise_ : NoiseScale
        How wide residuals are within, beyond, and on new models and GPUs.
    """

    def __init__(
        self,
        trees: int = 150,
        depth: int = 7,
        rate: float = 0.2,
        ridge: float = 0.3,
        sharpness: float = 2.0,
        random_state: int = 0,
        calibrate: bool = True,
        choices: Choices | None = None,
    ) -> None:
        super().__init__(calibrate)
        self.trees = trees
        self.depth = depth
        self.rate = rate
        self.ridge = ridge
        self.sharpness = sharpness
        self.random_state = random_state
        self.choices = choices

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        from threadpoolctl import threadpool_limits

        check_operations(X)
        # Thousands of tiny products: threads of the linear algebra would only wait for each other.
        with threadpool_limits(1):
            self._fit_parts(X, y)

    def _fit_parts(self, X: FloatArray, y: FloatArray) -> None:
        settings = Settings(
            self.trees, self.depth, self.rate, self.ridge, self.sharpness, self.random_state
        )
        found = fit_operations(X, y, settings, self.choices, self.calibrate)
        self.measured_ = distinct_rows(X)[0]
        self.physics_, self.trees_, self.range_ = found.physics, found.trees, found.measured
        self.choices_, self.noise_ = found.choices, NoiseScale.of(found.evidence, found.group)
        self._fitted: Fitted | None = found if self.calibrate else None

    def _check_fitted(self, state: State, columns: int) -> None:
        state.number("sharpness", minimum=1)
        given = state.part("choices", Choices, optional=True)
        for choices, own in [state.part("choices_", Choices), *([given] if given else [])]:
            choices.check_state(own)
        measured = state.floats("measured_", (None, len(COLUMNS)))
        if columns != measured.shape[1]:
            raise state.refuse("n_features_in_", str(columns), str(measured.shape[1]))
        physics, own = state.part("physics_", TermTree)
        physics.check_state(own, tuple(map(len, LEVELS)), len(TERMS))
        ranges, own = state.part("range_", MeasuredRange)
        ranges.check_state(own, physics.keys[-1], 1 + len(SIZES), MOST_DOUBLINGS)
        trees, own = state.part("trees_", SymmetricTrees)
        trees.check_state(own, ASKED)
        noise, own = state.part("noise_", NoiseScale)
        noise.check_state(own, len(ranges.keys), 1 + len(SIZES))
        if state.take("_fitted") is not None:
            raise state.refuse("_fitted", "evidence of a fit", "nothing")

    def _predict(self, X: FloatArray) -> FloatArray:
        found = np.empty(len(X))
        # In parts that stay in the processor's cache, column by column.
        for start in range(0, len(X), _CHUNK):
            part = _by_columns(X[start : start + _CHUNK])
            check_operations(part, first=start)
            found[start : start + _CHUNK] = self._predict_part(part)
        return found

    def _predict_part(self, X: FloatArray) -> FloatArray:
        work, sizes = terms(X), log_sizes(X)
        node = self.physics_.find(Levels(X))
        base = self.physics_.seconds(work, node)
        new = node < 0
        base[new] = overlap(work[new], TYPICAL.mean, BLOCKS, self.sharpness)
        inside, outside = self.choices_.inside, self.choices_.outside
        if inside == outside == 0:
            return base
        # The tree numbers its deepest groups first, which are those of the range.
        group = np.where(node < len(self.range_.keys), node, -1)
        far = np.zeros(len(X))
        for doublings in self.range_.outside(sizes, group).T:
            far += doublings
        asked = asked_of(X, sizes, base)
        beyond = (group >= 0) & (far > 0)
        if beyond.any():
            asked[beyond] = asked_within(X[beyond], group[beyond], self.range_, self.physics_)
        part = outside + (inside - outside) * np.exp2(-far)
        # No fold has shown that the correction helps where the model or the GPU is new.
        part[group < 0] = 0.0
        return np.asarray(base * np.exp(part * self.trees_.predict(asked)))

    def provenance(self, X: npt.ArrayLike) -> IntArray:
        """Index in `LABELS` of where each prediction comes from, shape (R,)."""
        rows = check_operations(X)
        _, kinds, scale = self._places(rows)
        found = np.where(kinds == WITHIN, INTERPOLATED, EXTRAPOLATED)
        found[find_rows(self.measured_, rows) >= 0] = MEASURED
        found[np.isinf(scale)] = THEORETICAL
        return found

    def _held_out(self, X: FloatArray, y: FloatArray) -> HeldOut:
        fitted, self._fitted = self._fitted, None
        assert fitted is not None, "a fit leaves its evidence"
        found = fitted.evidence
        group = fitted.group[found.rows]
        scale = self.noise_.scale(found.kinds, group, found.doublings)
        return HeldOut(found.residuals, scale, group, points(X)[found.rows], found.kinds)

    def _places(self, X: FloatArray) -> Places:
        levels = Levels(X)
        group = self.range_.group(levels[-1])
        outside = self.range_.outside(log_sizes(X), group)
        gpu = find_rows(self.physics_.keys[1], levels[1])
        kinds = kind_of(group, np.any(outside, axis=1), gpu)
        scale = self.noise_.scale(kinds, group, outside)
        # Nothing says how far off rules of thumb are.
        known = find_rows(self.physics_.keys[0], levels[0]) >= 0
        return group, kinds, np.where(known, scale, np.inf)


def _by_columns(X: FloatArray) -> FloatArray:
    """Return the same rows with every column in one piece."""
    found = np.empty(X.shape, order="F")
    for start in range(0, len(X), _BLOCK):
        found[start : start + _BLOCK] = X[start : start + _BLOCK]
    return found
