"""What a time model of operations learns: physics, correction, and how far off it is where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from predictors.boosting import SymmetricTrees, boost
from predictors.efficiencies import TermTree, find_rows, fit_tree
from predictors.evidence import Evidence, kind_of
from predictors.folds import extrapolating_folds, left_out_folds, random_folds
from predictors.intervals import points
from predictors.measured_range import SIZES, MeasuredRange, columns, log_sizes
from predictors.operation_terms import BLOCKS, TERMS, TYPICAL, terms, wave_padding
from predictors.operations import column, tokens
from predictors.state import State

_GPU = ("kind", "number_bytes", "flops", "bandwidth", "link", "sms")
_SHAPE = ("layer_parameters", "layers", "hidden", "heads", "kv_share")
LEVELS = (
    ("kind",),
    _GPU,
    (*_GPU, "tensor"),
    (*_GPU, "tensor", *_SHAPE, "recompute", "sharded"),
)
"""Columns that tell groups apart, the widest first: kind of operation, GPU type, how many of them
(which sums over GPUs depend on), model on them."""
_SUMS = ("all_reduce", "all_reduce_calls")
_FREEDOM = np.where(np.isin(TERMS, "allocations"), 0.05, 1.0)
"""How freely groups differ by term: what allocating memory takes is hardly the model's matter."""
PARTIAL = {2: np.isin(TERMS, _SUMS)}
"""Terms that differ by the number of GPUs: the sums over them."""
_ASKED = ("kind", "heads", "tensor", "number_bytes")
_WIDTHS = (1.0, 8 / 3)
"""Widths of matrix products next to the model's, whose waves of tiles the correction sees."""
ASKED = 1 + len(SIZES) + len(_ASKED) + 3 + len(_WIDTHS)
"""Columns that the correction asks about, see `asked_of`."""
_SPREADS = (0.1, 0.5, 3.0)
_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CHOICE_ROWS = 2000
"""Rows that hyperparameters are chosen on at most."""
_LEAST_POINTS = 20
"""Distinct points from which residuals are worth learning from."""
_FOLDS = ((2000, 20), (5000, 5), (np.inf, 3))
"""Folds by the rows they are enough for: with more rows, fewer say as much."""


@dataclass(frozen=True)
class Choices:
    """What a fit chooses on held-out folds.

    Parameters
    ----------
    spread : float
        How far groups may differ, see `predictors.efficiencies.fit_tree`.
    inside, outside : float
        How much of the correction counts within and beyond the measured sizes.
    """

    spread: float = 0.3
    inside: float = 0.0
    outside: float = 0.0

    def check_state(self, state: State) -> None:
        """Check what a file says."""
        state.number("spread")
        state.number("inside", maximum=1)
        state.number("outside", maximum=1)
        state.end()


@dataclass(frozen=True)
class Settings:
    """Settings of a fit, as in `predictors.operation_model.OperationTimeModel`."""

    trees: int
    depth: int
    rate: float
    ridge: float
    sharpness: float
    seed: int

    def physics(self, rows: Rows, spread: float) -> TermTree:
        """Fit the coefficients of the terms."""
        return fit_tree(
            rows.work,
            rows.y,
            rows.levels,
            spread,
            TYPICAL,
            BLOCKS,
            self.sharpness,
            freedom=_FREEDOM,
            partial=PARTIAL,
        )

    def boost(self, asked: FloatArray, left: FloatArray, number: int) -> SymmetricTrees:
        """Fit the correction to log residuals."""
        return boost(
            asked,
            left,
            trees=self.trees,
            depth=self.depth,
            rate=self.rate,
            ridge=self.ridge,
            least_rows=2,
            seed=self.seed + number,
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """Measured operations and what follows from their columns.

    Parameters
    ----------
    X, y : ndarray, shapes (R, len(COLUMNS)) and (R,)
        Operations and seconds.
    work : ndarray, shape (R, len(TERMS))
        Seconds at peak rates.
    sizes : ndarray, shape (R, F)
        See `predictors.measured_range.log_sizes`.
    levels : tuple of ndarray, level l of shape (R, W_l)
        Columns of the groups, see `LEVELS`.
    """

    X: FloatArray
    y: FloatArray
    work: FloatArray
    sizes: FloatArray
    levels: tuple[FloatArray, ...]

    @classmethod
    def of(cls, X: FloatArray, y: FloatArray) -> Rows:
        """Rows of measured operations."""
        return cls(X, y, terms(X), log_sizes(X), tuple(Levels(X)))

    def __getitem__(self, rows: BoolArray | IntArray) -> Rows:
        levels = tuple(level[rows] for level in self.levels)
        return Rows(self.X[rows], self.y[rows], self.work[rows], self.sizes[rows], levels)

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What was learned.

    Parameters
    ----------
    physics : TermTree
        Coefficients of the terms.
    trees : SymmetricTrees
        Correction of log seconds.
    measured : MeasuredRange
        Sizes that were measured, by group.
    choices : Choices
        What was chosen on held-out folds.
    evidence : Evidence
        Residuals of held-out rows; incomplete where intervals were not asked for.
    group : ndarray of int, shape (R,)
        Number of every row's group in `measured`.
    """

    physics: TermTree
    trees: SymmetricTrees
    measured: MeasuredRange
    choices: Choices
    evidence: Evidence
    group: IntArray


class Levels(Sequence[FloatArray]):
    """Columns of the groups of operations (R, len(COLUMNS)) by level, see `LEVELS`.

    Taken when they are asked for: mostly the deepest level is enough.
    """

    def __init__(self, X: FloatArray) -> None:
        self._X = X

    def __len__(self) -> int:
        return len(LEVELS)

    def __getitem__(self, level: Any) -> Any:
        return columns(self._X, LEVELS[level])


def asked_of(X: FloatArray, sizes: FloatArray, base: FloatArray) -> FloatArray:
    """Columns the correction asks about, shape (R, F), given the seconds by physics alone."""
    batch = tokens(X)
    padding = np.log2(wave_padding(X, _WIDTHS))
    work = np.log2(batch * column(X, "hidden"))
    waves = batch / 128 / (column(X, "sms") * column(X, "sm_share"))
    shapes = np.log2(1 + columns(X, _ASKED))
    rest = np.array([np.log2(base), work, waves, *padding])
    return np.asarray(np.concatenate([sizes.T, shapes.T, rest]).T)


def asked_within(
    X: FloatArray, group: IntArray, measured: MeasuredRange, physics: TermTree
) -> FloatArray:
    """Columns the correction asks about at the nearest measured sizes of groups, shape (R, F)."""
    rows = measured.nearest(X, group)
    return asked_of(rows, log_sizes(rows), physics.predict(terms(rows), Levels(rows)))


def fit_operations(
    X: FloatArray, y: FloatArray, settings: Settings, choices: Choices | None, calibrate: bool
) -> Fitted:
    """Fit physics and correction.

    Parameters
    ----------
    X, y : ndarray, shapes (R, len(COLUMNS)) and (R,)
        Operations and seconds.
    settings : Settings
        How.
    choices : Choices, optional
        Taken over instead of being chosen.
    calibrate : bool
        Whether all evidence is wanted that intervals need.
    """
    rows, point = Rows.of(X, y), points(X)
    distinct = int(point.max()) + 1
    inner = random_folds(
        point, settings.seed, next(folds for most, folds in _FOLDS if len(rows) <= most)
    )
    measured = MeasuredRange.of(rows.levels[-1], rows.sizes)
    group, nothing = measured.group(rows.levels[-1]), Evidence.none(rows.sizes.shape[1])
    if distinct < _LEAST_POINTS:
        spread = Choices().spread
        physics = settings.physics(rows, spread)
        _, left = _residuals(rows, physics, inner, settings, spread)
        held = np.flatnonzero(np.any(inner, axis=0)) if inner else np.empty(0, dtype=np.int64)
        trees = settings.boost(np.empty((0, 1)), np.empty(0), 0)
        evidence = Evidence.within(held, left[held], rows.sizes.shape[1])
        return Fitted(physics, trees, measured, Choices(spread), evidence, group)
    asking = choices is None or calibrate
    outer = extrapolating_folds(rows.sizes) if asking else []
    spread = choices.spread if choices else _spread(rows, settings, inner, outer)
    physics = settings.physics(rows, spread)
    asked, left = _residuals(rows, physics, inner, settings, spread)
    trees = settings.boost(asked, left, len(inner))
    if not asking and choices is not None:
        return Fitted(physics, trees, measured, choices, nothing, group)
    inside, within = _inside(rows, asked, left, inner, settings, choices)
    outside, beyond = _outside(rows, outer, settings, spread, choices)
    parts = [within, beyond]
    if calibrate:
        parts += _new_groups(rows, settings, spread)
    chosen = Choices(spread, inside, outside)
    return Fitted(physics, trees, measured, chosen, Evidence.together(parts), group)


def _residuals(
    rows: Rows, physics: TermTree, inner: list[BoolArray], settings: Settings, spread: float
) -> tuple[FloatArray, FloatArray]:
    """Return what the correction asks about, and log residuals on physics of the other folds."""
    base = physics.predict(rows.work, rows.levels)
    for held in inner:
        own = rows[held]
        base[held] = settings.physics(rows[~held], spread).predict(own.work, own.levels)
    return asked_of(rows.X, rows.sizes, base), np.log(rows.y / base)


def _some(rows: Rows, seed: int) -> IntArray:
    """Draw the rows that are enough to choose on."""
    return np.sort(np.random.default_rng(seed).permutation(len(rows))[:_CHOICE_ROWS])


def _spread(rows: Rows, settings: Settings, *kinds: Iterable[BoolArray]) -> float:
    """Return what predicts held-out folds best, each kind of folds counting as much as another."""
    some = _some(rows, settings.seed)
    few, errors = rows[some], np.zeros(len(_SPREADS))
    for folds in kinds:
        held_out = [held for held in (fold[some] for fold in folds) if 0 < held.sum() < len(few)]
        for held in held_out:
            rest, asked = few[~held], few[held]
            for at, spread in enumerate(_SPREADS):
                found = settings.physics(rest, spread).predict(asked.work, asked.levels)
                errors[at] += np.mean(np.abs(np.log(found / asked.y))) / len(held_out)
    return _SPREADS[int(np.argmin(errors))] if errors.any() else _SPREADS[1]


def _inside(
    rows: Rows,
    asked: FloatArray,
    left: FloatArray,
    inner: list[BoolArray],
    settings: Settings,
    choices: Choices | None,
) -> tuple[float, Evidence]:
    """Part of the correction that counts on rows like those fitted on, and what it leaves.

    Rows that lie beyond the rest of their group once their fold is held out are not like them.
    """
    order, found = [], []
    for number, held in enumerate(inner):
        at = np.flatnonzero(held)[_amid(rows, held)]
        trees = settings.boost(asked[~held], left[~held], number)
        order.append(at)
        found.append(trees.predict(asked[at]))
    at, corrections = np.concatenate(order), np.concatenate(found)
    if not at.size:
        return 0.0, Evidence.none(rows.sizes.shape[1])
    part = choices.inside if choices else _best_part(left[at], corrections)
    return part, Evidence.within(at, left[at] - part * corrections, rows.sizes.shape[1])


def _amid(rows: Rows, held: BoolArray) -> BoolArray:
    """Whether each held row lies within the sizes of the rest of its group."""
    measured = MeasuredRange.of(rows.levels[-1][~held], rows.sizes[~held])
    group = measured.group(rows.levels[-1][held])
    far = np.any(measured.outside(rows.sizes[held], group), axis=1)
    return np.asarray((group >= 0) & ~far)


def _outside(
    rows: Rows,
    outer: list[BoolArray],
    settings: Settings,
    spread: float,
    choices: Choices | None,
) -> tuple[float, Evidence]:
    """Part that counts beyond the measured sizes of the groups that are known, and the rest."""
    order, missed, found, far = [], [], [], []
    for number, held in enumerate(outer):
        rest = rows[~held]
        physics = settings.physics(rest, spread)
        base = physics.predict(rows.work, rows.levels)
        trees = settings.boost(
            asked_of(rest.X, rest.sizes, base[~held]), np.log(rest.y / base[~held]), number
        )
        measured = MeasuredRange.of(rest.levels[-1], rest.sizes)
        group = measured.group(rows.levels[-1][held])
        at, group = np.flatnonzero(held)[group >= 0], group[group >= 0]
        order.append(at)
        missed.append(np.log(rows.y[at] / base[at]))
        found.append(trees.predict(asked_within(rows.X[at], group, measured, physics)))
        far.append(measured.outside(rows.sizes[at], group))
    if not sum(at.size for at in order):
        return 0.0, Evidence.none(rows.sizes.shape[1])
    corrections, residuals = np.concatenate(found), np.concatenate(missed)
    part = choices.outside if choices else _best_part(residuals, corrections)
    left = residuals - part * corrections
    return part, Evidence.beyond(np.concatenate(order), left, np.concatenate(far))


def _new_groups(rows: Rows, settings: Settings, spread: float) -> list[Evidence]:
    """Predict models and GPU types that are left out whole."""
    some = _some(rows, settings.seed)
    few, found = rows[some], []
    models, gpus = (left_out_folds(columns(few.X, names)) for names in (_SHAPE, _GPU[1:]))
    for held in (*models, *gpus):
        rest, asked = few[~held], few[held]
        physics = settings.physics(rest, spread)
        base = physics.predict(asked.work, asked.levels)
        nowhere = np.full(len(asked), -1)
        far = MeasuredRange.of(rest.levels[-1], rest.sizes).outside(asked.sizes, nowhere)
        kinds = kind_of(nowhere, np.any(far, axis=1), find_rows(physics.keys[1], asked.levels[1]))
        good = np.isfinite(base)
        residuals = np.log(asked.y / base)
        found.append(Evidence(some[held][good], residuals[good], far[good], kinds[good]))
    return found


def _best_part(missed: FloatArray, corrections: FloatArray) -> float:
    """Part of the corrections that leaves the least mean absolute residual."""
    left = [float(np.mean(np.abs(missed - part * corrections))) for part in _PARTS]
    return _PARTS[int(np.argmin(left))]
