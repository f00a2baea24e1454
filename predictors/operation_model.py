"""Time of any operation: physics first, then a learned correction that fades where nothing is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from predictors.boosting import SymmetricTrees, boost
from predictors.efficiencies import TermTree, distinct_rows, find_rows, fit_tree, overlap
from predictors.evidence import BEYOND, NEW_GPU, NEW_MODEL, WITHIN, Evidence, NoiseScale
from predictors.folds import extrapolating_folds, left_out_folds, random_folds
from predictors.intervals import points
from predictors.measured_range import MeasuredRange, columns, log_sizes
from predictors.operations import (
    BLOCKS,
    TYPICAL,
    check_operations,
    column,
    terms,
    tokens,
    wave_padding,
)
from predictors.regressor import CalibratedRegressor, HeldOut

LABELS = ("measured", "interpolated", "extrapolated", "theoretical")
"""Where a prediction comes from: the very point was measured; it lies within what was measured of
this model on this GPU; it lies beyond, or model or GPU are new; nothing of its kind was measured
and rules of thumb are all there is."""
MEASURED, INTERPOLATED, EXTRAPOLATED, THEORETICAL = range(4)

_GPU = ("kind", "number_bytes", "flops", "bandwidth", "link", "sms")
_SHAPE = ("layer_parameters", "layers", "hidden", "heads", "kv_share")
_LEVELS = (("kind",), _GPU, (*_GPU, *_SHAPE, "tensor", "recompute", "sharded"))
_ASKED = ("kind", "heads", "tensor", "number_bytes")
_WIDTHS = (1.0, 8 / 3)
"""Widths of matrix products next to the model's, whose waves of tiles the correction sees."""
_SPREADS = (0.1, 0.5, 3.0)
_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CHOICE_ROWS = 2000
"""Rows that hyperparameters are chosen on at most."""
_LEAST_POINTS = 20
"""Distinct points from which residuals are worth learning from."""
_CHUNK = 8000
_BLOCK = 500
"""Rows that the processor's cache holds twice."""
_FOLDS = ((2000, 10), (5000, 5), (np.inf, 3))
"""Folds by the rows they are enough for: with more rows, fewer say as much."""


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

    Attributes
    ----------
    spread_, inside_, outside_ : float
        What was chosen: see `predictors.efficiencies.fit_tree`, and the parts of the correction.
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
        trees: int = 100,
        depth: int = 7,
        rate: float = 0.25,
        ridge: float = 0.3,
        sharpness: float = 2.0,
        random_state: int = 0,
        calibrate: bool = True,
    ) -> None:
        super().__init__(calibrate)
        self.trees = trees
        self.depth = depth
        self.rate = rate
        self.ridge = ridge
        self.sharpness = sharpness
        self.random_state = random_state

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        from threadpoolctl import threadpool_limits

        check_operations(X)
        # Thousands of tiny products: threads of the linear algebra would only wait for each other.
        with threadpool_limits(1):
            self._fit_parts(X, y)

    def _fit_parts(self, X: FloatArray, y: FloatArray) -> None:
        work, sizes, point = terms(X), log_sizes(X), points(X)
        levels = tuple(columns(X, names) for names in _LEVELS)
        enough = int(point.max()) + 1 >= _LEAST_POINTS
        count = next(folds for rows, folds in _FOLDS if len(y) <= rows)
        inner = random_folds(point, self.random_state, count)
        outer = extrapolating_folds(sizes) if enough else []
        self.measured_ = distinct_rows(X)[0]
        self.range_ = MeasuredRange.of(levels[-1], sizes)
        self.spread_ = (
            self._choose_spread(work, y, levels, [*inner[:1], *outer[:2]]) if enough else 0.3
        )
        self.physics_ = self._physics(work, y, levels, self.spread_)
        base = self.physics_.predict(work, levels)
        for held in inner:
            own = self._physics(work, y, levels, self.spread_, ~held)
            base[held] = own.predict(work[held], tuple(level[held] for level in levels))
        left, asked = np.log(y / base), self._asked(X, sizes, base)
        self.inside_ = self.outside_ = 0.0
        evidence = []
        if enough:
            evidence.append(self._choose_inside(asked, left, inner))
            evidence += self._choose_outside(X, y, work, sizes, levels, outer)
            if self.calibrate:
                evidence += self._new_groups(X, y, work, sizes, levels)
        elif inner:
            held_out = np.flatnonzero(np.any(inner, axis=0))
            evidence.append(Evidence.within(held_out, left[held_out]))
        few = slice(None) if enough else slice(0)
        self.trees_ = self._boost(asked[few], left[few], len(inner))
        together = Evidence.together(evidence)
        self.noise_ = NoiseScale.of(together, self.range_.group(levels[-1]))
        if self.calibrate:
            self._evidence = together

    def _physics(
        self,
        work: FloatArray,
        y: FloatArray,
        levels: tuple[FloatArray, ...],
        spread: float,
        rows: BoolArray | None = None,
    ) -> TermTree:
        if rows is not None:
            work, y, levels = work[rows], y[rows], tuple(level[rows] for level in levels)
        return fit_tree(work, y, levels, spread, TYPICAL, BLOCKS, self.sharpness)

    def _choose_spread(
        self,
        work: FloatArray,
        y: FloatArray,
        levels: tuple[FloatArray, ...],
        folds: list[BoolArray],
    ) -> float:
        if not folds:
            return _SPREADS[1]
        rng = np.random.default_rng(self.random_state)
        some = np.sort(rng.permutation(len(y))[:_CHOICE_ROWS])
        work, y, levels = work[some], y[some], tuple(level[some] for level in levels)
        errors = np.zeros(len(_SPREADS))
        for held in (fold[some] for fold in folds):
            if not 0 < held.sum() < len(y):
                continue
            for at, spread in enumerate(_SPREADS):
                own = self._physics(work, y, levels, spread, ~held)
                found = own.predict(work[held], tuple(level[held] for level in levels))
                errors[at] += np.mean(np.abs(np.log(found / y[held])))
        return _SPREADS[int(np.argmin(errors))]

    def _choose_inside(
        self, asked: FloatArray, left: FloatArray, inner: list[BoolArray]
    ) -> Evidence:
        """Choose the part of the correction that counts on rows like those fitted on."""
        order, found = [], []
        for number, held in enumerate(inner):
            trees = self._boost(asked[~held], left[~held], number)
            order.append(np.flatnonzero(held))
            found.append(trees.predict(asked[held]))
        rows, corrections = np.concatenate(order), np.concatenate(found)
        self.inside_ = _best_part(left[rows], corrections)
        return Evidence.within(rows, left[rows] - self.inside_ * corrections)

    def _choose_outside(
        self,
        X: FloatArray,
        y: FloatArray,
        work: FloatArray,
        sizes: FloatArray,
        levels: tuple[FloatArray, ...],
        outer: list[BoolArray],
    ) -> list[Evidence]:
        """Choose the part beyond the measured sizes of the groups that are known."""
        order, missed, found, far = [], [], [], []
        for number, held in enumerate(outer):
            physics = self._physics(work, y, levels, self.spread_, ~held)
            base = physics.predict(work, levels)
            asked, left = self._asked(X, sizes, base), np.log(y / base)
            trees = self._boost(asked[~held], left[~held], number)
            measured = MeasuredRange.of(levels[-1][~held], sizes[~held])
            group = measured.group(levels[-1][held])
            rows, group = np.flatnonzero(held)[group >= 0], group[group >= 0]
            order.append(rows)
            missed.append(left[rows])
            found.append(trees.predict(self._asked_within(X[rows], group, measured, physics)))
            far.append(measured.doublings(sizes[rows], group))
        if not sum(rows.size for rows in order):
            return []
        corrections, residuals = np.concatenate(found), np.concatenate(missed)
        self.outside_ = _best_part(residuals, corrections)
        rest = residuals - self.outside_ * corrections
        return [Evidence.beyond(np.concatenate(order), rest, np.concatenate(far))]

    def _new_groups(
        self,
        X: FloatArray,
        y: FloatArray,
        work: FloatArray,
        sizes: FloatArray,
        levels: tuple[FloatArray, ...],
    ) -> list[Evidence]:
        """Predict models and GPU types that are left out whole."""
        some = np.arange(len(y))
        if len(y) > _CHOICE_ROWS:
            some = np.sort(
                np.random.default_rng(self.random_state).permutation(some)[:_CHOICE_ROWS]
            )
        levels = tuple(level[some] for level in levels)
        found = []
        for held in (
            *left_out_folds(columns(X[some], _SHAPE)),
            *left_out_folds(columns(X[some], _GPU[1:])),
        ):
            fitted = some[~held], tuple(level[~held] for level in levels)
            asked = some[held], tuple(level[held] for level in levels)
            physics = fit_tree(
                work[fitted[0]],
                y[fitted[0]],
                fitted[1],
                self.spread_,
                TYPICAL,
                BLOCKS,
                self.sharpness,
            )
            base = physics.predict(work[asked[0]], asked[1])
            measured = MeasuredRange.of(fitted[1][-1], sizes[fitted[0]])
            nowhere = np.full(held.sum(), -1)
            far = measured.doublings(sizes[asked[0]], nowhere)
            kinds = _kinds(nowhere, far, find_rows(physics.keys[1], asked[1][1]))
            good = np.isfinite(base)
            residuals = np.log(y[asked[0]] / base)
            found.append(Evidence(asked[0][good], residuals[good], far[good], kinds[good]))
        return found

    def _boost(self, asked: FloatArray, left: FloatArray, number: int) -> SymmetricTrees:
        return boost(
            asked,
            left,
            trees=self.trees,
            depth=self.depth,
            rate=self.rate,
            ridge=self.ridge,
            least_rows=2,
            seed=self.random_state + number,
        )

    def _asked(self, X: FloatArray, sizes: FloatArray, base: FloatArray) -> FloatArray:
        """Columns the correction asks about, shape (R, F)."""
        batch = tokens(X)
        padding = [np.log2(wave_padding(X, width)) for width in _WIDTHS]
        work = np.log2(batch * column(X, "hidden"))
        waves = batch / 128 / (column(X, "sms") * column(X, "sm_share"))
        shapes = np.log2(1 + columns(X, _ASKED))
        rest = np.array([np.log2(base), work, waves, *padding])
        return np.asarray(np.concatenate([sizes.T, shapes.T, rest]).T)

    def _asked_within(
        self, X: FloatArray, group: IntArray, measured: MeasuredRange, physics: TermTree
    ) -> FloatArray:
        """Columns of the nearest operations within the own groups' sizes, shape (R, F)."""
        rows = measured.nearest(X, group)
        levels = tuple(columns(rows, names) for names in _LEVELS)
        return self._asked(rows, log_sizes(rows), physics.predict(terms(rows), levels))

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
        levels = tuple(columns(X, names) for names in _LEVELS)
        node = self.physics_.find(levels)
        base = self.physics_.seconds(work, node)
        new = node < 0
        base[new] = overlap(work[new], TYPICAL.mean, BLOCKS, self.sharpness)
        if self.inside_ == self.outside_ == 0:
            return base
        # The tree numbers its deepest groups first, which are those of the range.
        group = np.where(node < len(self.range_.keys), node, -1)
        far = self.range_.doublings(sizes, group)
        asked = self._asked(X, sizes, base)
        beyond = (group >= 0) & (far > 0)
        if beyond.any():
            asked[beyond] = self._asked_within(X[beyond], group[beyond], self.range_, self.physics_)
        part = self.outside_ + (self.inside_ - self.outside_) * np.exp2(-far)
        # No fold has shown that the correction helps where the model or the GPU is new.
        part[group < 0] = 0.0
        return np.asarray(base * np.exp(part * self.trees_.predict(asked)))

    def provenance(self, X: npt.ArrayLike) -> IntArray:
        """Index in `LABELS` of where each prediction comes from, shape (R,)."""
        rows = check_operations(X)
        found = np.where(self._kinds(rows) == WITHIN, INTERPOLATED, EXTRAPOLATED)
        found[find_rows(self.measured_, rows) >= 0] = MEASURED
        found[self._theoretical(rows)] = THEORETICAL
        return found

    def _theoretical(self, X: FloatArray) -> BoolArray:
        return np.asarray(find_rows(self.physics_.keys[0], columns(X, _LEVELS[0])) < 0)

    def _held_out(self, X: FloatArray, y: FloatArray) -> HeldOut:
        found = self._evidence
        del self._evidence
        group = self.range_.group(columns(X, _LEVELS[-1]))[found.rows]
        scale = self.noise_.scale(found.kinds, group, found.doublings)
        return HeldOut(found.residuals, scale, group, points(X)[found.rows], found.kinds)

    def _place(self, X: FloatArray) -> tuple[IntArray, FloatArray]:
        """Group of every row, and doublings outside of what was measured of it."""
        group = self.range_.group(columns(X, _LEVELS[-1]))
        return group, self.range_.doublings(log_sizes(X), group)

    def _groups(self, X: FloatArray) -> npt.NDArray[np.generic]:
        return self._place(X)[0]

    def _kinds(self, X: FloatArray) -> IntArray:
        return _kinds(*self._place(X), find_rows(self.physics_.keys[1], columns(X, _LEVELS[1])))

    def _scale(self, X: FloatArray) -> FloatArray:
        group, far = self._place(X)
        # Nothing says how far off rules of thumb are.
        return np.where(self._theoretical(X), np.inf, self.noise_.scale(self._kinds(X), group, far))


def _kinds(group: IntArray, far: FloatArray, gpu: IntArray) -> IntArray:
    """Tell predictions apart by what was measured: numbers of group and GPU are −1 if unknown."""
    known = np.where(far > 0, BEYOND, WITHIN)
    return np.where(group >= 0, known, np.where(gpu >= 0, NEW_MODEL, NEW_GPU))


def _best_part(missed: FloatArray, corrections: FloatArray) -> float:
    """Part of the corrections that leaves the least mean absolute residual."""
    left = [float(np.mean(np.abs(missed - part * corrections))) for part in _PARTS]
    return _PARTS[int(np.argmin(left))]


def _by_columns(X: FloatArray) -> FloatArray:
    """Return the same rows with every column in one piece."""
    found = np.empty(X.shape, order="F")
    for start in range(0, len(X), _BLOCK):
        found[start : start + _BLOCK] = X[start : start + _BLOCK]
    return found
