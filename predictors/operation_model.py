"""Time of any operation: physics first, then a learned correction that fades where nothing is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from predictors.boosting import SymmetricTrees, boost
from predictors.efficiencies import TermTree, distinct_rows, find_rows, fit_tree, overlap
from predictors.folds import extrapolating_folds, random_folds
from predictors.intervals import conformal_quantile, points
from predictors.operations import BLOCKS, COLUMNS, TYPICAL, check_operations, terms, tokens
from predictors.regressor import CalibratedRegressor

LABELS = ("measured", "interpolated", "extrapolated", "theoretical")
"""Where a prediction comes from: the very point was measured; it lies within what was measured of
this model on this GPU; it lies beyond, or model or GPU are new; nothing of its kind was measured
and rules of thumb are all there is."""
MEASURED, INTERPOLATED, EXTRAPOLATED, THEORETICAL = range(4)

_GPU = ("kind", "number_bytes", "flops", "bandwidth", "link", "sms")
_MODEL = (
    "layer_parameters",
    "layers",
    "hidden",
    "heads",
    "kv_share",
    "tensor",
    "recompute",
    "sharded",
)
_LEVELS = (("kind",), _GPU, (*_GPU, *_MODEL))
_SIZES = (
    "length",
    "rows",
    "context",
    "pipeline",
    "data",
    "micro_batches",
    "sm_share",
    "hidden",
    "layers",
    "flops",
    "bandwidth",
)
_SHAPES = ("kind", "heads", "tensor", "number_bytes")
_SPREADS = (0.1, 0.5, 3.0)
_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CHOICE_ROWS = 2000
"""Rows that hyperparameters are chosen on at most."""
_LEAST_POINTS = 20
"""Distinct points from which residuals are worth learning from."""
_GROWTH_COVERAGE = 0.9
_CHUNK = 8000
_BLOCK = 500
"""Rows that the processor's cache holds twice."""
_FAST_ROWS = 5000
"""Rows from which three folds say as much as five."""


def _columns(X: FloatArray, names: tuple[str, ...]) -> FloatArray:
    return np.asarray(X.T[[COLUMNS.index(name) for name in names]].T)


def _sizes(X: FloatArray) -> FloatArray:
    """Return logs of what may lie beyond the measured, tokens first."""
    columns = np.concatenate([tokens(X)[None], _columns(X, _SIZES).T])
    columns += 1
    return np.asarray(np.log2(columns, out=columns).T)


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
    growth_ : float
        How much wider intervals become per doubling beyond what was measured.
    physics_ : TermTree
        Coefficients.
    trees_ : SymmetricTrees
        Correction.
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
        work, sizes, point = terms(X), _sizes(X), points(X)
        levels = tuple(_columns(X, names) for names in _LEVELS)
        enough = int(point.max()) + 1 >= _LEAST_POINTS
        inner = random_folds(point, self.random_state)[: 3 if len(y) > _FAST_ROWS else None]
        outer = extrapolating_folds(sizes) if enough else []
        self._remember(X, levels[2], sizes)
        self.spread_ = (
            self._choose_spread(work, y, levels, [*inner[:1], *outer[:2]]) if enough else 0.3
        )
        self.physics_ = self._physics(work, y, levels, self.spread_)
        base = self.physics_.predict(work, levels)
        for held in inner:
            own = self._physics(work, y, levels, self.spread_, ~held)
            base[held] = own.predict(work[held], tuple(level[held] for level in levels))
        asked = self._asked(X, sizes, base)
        self.low_, self.high_ = asked.min(axis=0), asked.max(axis=0)
        left = np.log(y / base)
        self.inside_ = self.outside_ = self.growth_ = 0.0
        self._own = np.concatenate([left[held] for held in inner]) if inner else np.empty(0)
        if not enough:
            self.trees_ = self._boost(asked[:0], left[:0], 0)
            order = [np.flatnonzero(held) for held in inner]
            self._order = np.concatenate(order) if order else np.empty(0, dtype=np.int64)
            return
        self._choose_inside(asked, left, inner)
        self._choose_outside(X, y, work, sizes, levels, outer)
        self.trees_ = self._boost(asked, left, len(inner))

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

    def _choose_inside(self, asked: FloatArray, left: FloatArray, inner: list[BoolArray]) -> None:
        """Choose the part of the correction that counts on rows like those fitted on."""
        order, found = [], []
        for number, held in enumerate(inner):
            trees = self._boost(asked[~held], left[~held], number)
            order.append(np.flatnonzero(held))
            found.append(trees.predict(asked[held]))
        self._order = np.concatenate(order)
        corrections, missed = np.concatenate(found), left[self._order]
        self.inside_ = _best_part(missed, corrections)
        self._own = missed - self.inside_ * corrections

    def _choose_outside(
        self,
        X: FloatArray,
        y: FloatArray,
        work: FloatArray,
        sizes: FloatArray,
        levels: tuple[FloatArray, ...],
        outer: list[BoolArray],
    ) -> None:
        """Choose the part beyond the measured sizes, and how residuals grow there."""
        if not outer:
            return
        missed, found, far = [], [], []
        for number, held in enumerate(outer):
            physics = self._physics(work, y, levels, self.spread_, ~held)
            base = physics.predict(work, levels)
            asked, left = self._asked(X, sizes, base), np.log(y / base)
            trees = self._boost(asked[~held], left[~held], number)
            low, high = asked[~held].min(axis=0), asked[~held].max(axis=0)
            missed.append(left[held])
            found.append(trees.predict(np.clip(asked[held], low, high)))
            keys, least, most = _boxes(levels[2][~held], sizes[~held])
            far.append(_distance(sizes[held], find_rows(keys, levels[2][held]), least, most))
        corrections, residuals = np.concatenate(found), np.concatenate(missed)
        self.outside_ = _best_part(residuals, corrections)
        rest = np.abs(residuals - self.outside_ * corrections)
        radius = conformal_quantile(np.abs(self._own), _GROWTH_COVERAGE)
        distance = np.concatenate(far)
        beyond = distance > 0
        if beyond.any() and 0 < radius < np.inf:
            needed = np.maximum(rest[beyond] / radius - 1, 0) / distance[beyond]
            self.growth_ = float(np.quantile(needed, _GROWTH_COVERAGE))

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
        shapes = np.log2(1 + _columns(X, _SHAPES))
        hidden, share = X[:, COLUMNS.index("hidden")], X[:, COLUMNS.index("sm_share")]
        at_once = X[:, COLUMNS.index("sms")] * share
        batch = tokens(X)
        waves = batch / 128 / at_once
        rest = np.array([np.log2(base), np.log2(batch * hidden), waves])
        return np.asarray(np.concatenate([sizes.T, shapes.T, rest]).T)

    def _remember(self, X: FloatArray, groups: FloatArray, sizes: FloatArray) -> None:
        self.measured_ = distinct_rows(X)[0]
        self.group_keys_, self.group_low_, self.group_high_ = _boxes(groups, sizes)

    def _far(self, X: FloatArray) -> FloatArray:
        """Doublings beyond the sizes measured of a row's model and GPU, 0 within, shape (R,)."""
        group = find_rows(self.group_keys_, _columns(X, _LEVELS[2]))
        return _distance(_sizes(X), group, self.group_low_, self.group_high_)

    def _predict(self, X: FloatArray) -> FloatArray:
        found = np.empty(len(X))
        # In parts that stay in the processor's cache, column by column.
        for start in range(0, len(X), _CHUNK):
            part = _by_columns(X[start : start + _CHUNK])
            check_operations(part, first=start)
            found[start : start + _CHUNK] = self._predict_part(part)
        return found

    def _predict_part(self, X: FloatArray) -> FloatArray:
        work, sizes = terms(X), _sizes(X)
        levels = tuple(_columns(X, names) for names in _LEVELS)
        group = self.physics_.find(levels)
        base = self.physics_.seconds(work, group)
        new = group < 0
        base[new] = overlap(work[new], TYPICAL.mean, BLOCKS, self.sharpness)
        if self.inside_ == self.outside_ == 0:
            return base
        own = np.where(group < len(self.group_low_), group, -1)
        near = np.exp2(-_distance(sizes, own, self.group_low_, self.group_high_))
        part = self.outside_ + (self.inside_ - self.outside_) * near
        # No fold has shown that the correction helps where the model or the GPU is new.
        part[own < 0] = 0.0
        return np.asarray(base * np.exp(part * self.trees_.predict(self._asked(X, sizes, base))))

    def provenance(self, X: npt.ArrayLike) -> IntArray:
        """Index in `LABELS` of where each prediction comes from, shape (R,)."""
        rows = check_operations(X)
        found = np.full(len(rows), EXTRAPOLATED)
        known = find_rows(self.group_keys_, _columns(rows, _LEVELS[2])) >= 0
        found[known & (self._far(rows) == 0)] = INTERPOLATED
        found[find_rows(self.measured_, rows) >= 0] = MEASURED
        found[find_rows(self.physics_.keys[0], _columns(rows, _LEVELS[0])) < 0] = THEORETICAL
        return found

    def _held_out(self, X: FloatArray, y: FloatArray) -> tuple[FloatArray, IntArray]:
        return self._own, self._order

    def _groups(self, X: FloatArray) -> npt.NDArray[np.generic]:
        return find_rows(self.group_keys_, _columns(X, _LEVELS[2]))

    def _scale(self, X: FloatArray) -> FloatArray:
        # Nothing says how far off rules of thumb are.
        known = find_rows(self.physics_.keys[0], _columns(X, _LEVELS[0])) >= 0
        return np.where(known, 1 + self.growth_ * self._far(X), np.inf)


def _best_part(missed: FloatArray, corrections: FloatArray) -> float:
    """Part of the corrections that leaves the least mean absolute residual."""
    left = [float(np.mean(np.abs(missed - part * corrections))) for part in _PARTS]
    return _PARTS[int(np.argmin(left))]


def _boxes(groups: FloatArray, sizes: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the groups, and the least and most of their sizes."""
    keys, place = distinct_rows(groups)
    low = np.full((len(keys), sizes.shape[1]), np.inf)
    high = -low
    np.minimum.at(low, place, sizes)
    np.maximum.at(high, place, sizes)
    return keys, low, high


def _distance(sizes: FloatArray, group: IntArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Doublings outside of the own group's box, or of all of them for a new group."""
    lows = np.concatenate([low, low.min(axis=0)[None]])
    highs = np.concatenate([high, high.max(axis=0)[None]])
    place = np.where(group < 0, len(low), group)
    found = np.zeros(len(sizes))
    for size, least, most in zip(sizes.T, lows.T, highs.T, strict=True):
        if np.any(size < least.max()) or np.any(size > most.min()):
            found += np.maximum(np.take(least, place) - size, 0)
            found += np.maximum(size - np.take(most, place), 0)
    return found


def _by_columns(X: FloatArray) -> FloatArray:
    """Return the same rows with every column in one piece."""
    found = np.empty(X.shape, order="F")
    for start in range(0, len(X), _BLOCK):
        found[start : start + _BLOCK] = X[start : start + _BLOCK]
    return found
