"""Peak memory of runs: physical parts, each with a learned factor, and a guarded correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted, validate_data

from lemix_opt.checks import BoolArray, FloatArray, IntArray, floats
from lemix_opt.errors import FieldError
from predictors.boosting import SymmetricTrees, boost
from predictors.efficiencies import distinct_rows, find_rows
from predictors.evidence import BEYOND, NEW_MODEL, WITHIN, Evidence, NoiseScale, kind_of
from predictors.folds import extrapolating_folds
from predictors.intervals import FOLDS, held_out_residuals, log_residuals, points
from predictors.measured_range import MeasuredRange
from predictors.operation_model import EXTRAPOLATED, INTERPOLATED, MEASURED
from predictors.regressor import CalibratedRegressor, HeldOut, Places
from predictors.state import State

SHARES = (0.0, 0.5, 1.0)
"""Shares of the boosted correction that held-out groups choose from."""
_TREES, _DEPTH, _RATE, _RIDGE = 150, 7, 0.2, 0.3
"""Of the correction, those of `predictors.operation_model.OperationTimeModel`."""
_MOST_BYTES = 1e18
_ROUNDS = 30
_LEAST_SHARE = 0.05
"""Share of the peak that a part counts as at least in the weight of its prior: what never was more
cannot be learned, and its factor stays near 1."""


class MemoryModel(CalibratedRegressor):
    """Measured peak = largest over phases of Σ factor·part, factors at least 0.

    Columns are physical estimates in bytes (states, activations, …), see
    `predictors.memory_parts`; factors are the learned correction of each, of least relative
    squared error. Which phase a run peaks in follows from the factors themselves and is found by
    turns. On top a share of gradient boosting of the log residual (`predictors.boosting`), which
    beyond the fitted range is that of the range's edge; the share is what did best on groups of
    runs that were left out whole, and 0 unless it did better there than the factors alone.

    Parameters
    ----------
    phases : sequence of sequence of int, optional
        Columns that are there at once; all columns in one phase when omitted.
    prior_runs : float, default 0
        How many runs the belief that every factor is 1 weighs as much as. With 0 there is also a
        constant, bytes that are always there.
    boost : float, optional
        Share of the boosted correction in [0, 1]; chosen on held-out groups when None.
    random_state : int, default 0
        Seed of the boosting.
    calibrate : bool, default True
        See `CalibratedRegressor`.

    Attributes
    ----------
    constant_ : float
        Bytes that are always there.
    factor_ : ndarray, shape (F,)
        Correction of every column.
    share_ : float
        Share of the boosted correction.
    range_ : MeasuredRange
        Least and most bytes of every part that were measured of each group.
    noise_ : NoiseScale
        How wide residuals are within, per doubling of each phase beyond, and of new groups.
    limit_bytes_ : float
        Predicted peak above which a run is said to run out of memory, see
        `predictors.out_of_memory.fit_limit`; infinite until it is set.
    """

    def __init__(
        self,
        phases: Sequence[Sequence[int]] | None = None,
        prior_runs: float = 0.0,
        boost: float | None = 0.0,
        random_state: int = 0,
        calibrate: bool = True,
    ) -> None:
        super().__init__(calibrate)
        self.phases = phases
        self.prior_runs = prior_runs
        self.boost = boost
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Self:
        """Fit to measured peaks.

        Parameters
        ----------
        X : array_like, shape (R, F)
            Bytes of every part.
        y : array_like, shape (R,)
            Measured peak bytes.
        groups : array_like, shape (R,), optional
            What every run is of, for instance its model: groups are left out whole to choose the
            share of boosting, and have intervals of their own. Without them, repeats of a point.
        """
        data, target = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        target = np.asarray(target, dtype=np.float64)
        families = points(data) if groups is None else _checked(groups, len(target))
        share = self._chosen_share(data, target, families) if self.boost is None else self.boost
        self.share_ = float(floats("boost", share, (), minimum=0, maximum=1))
        self.limit_bytes_ = np.inf
        self.measured_ = distinct_rows(data)[0]
        nobody = np.empty(0, dtype=np.int64)
        self.group_names_ = nobody if groups is None else np.unique(families)
        numbers = self._numbers(groups, len(target))
        self.range_ = MeasuredRange.of(numbers, data)
        group = self.range_.group(numbers)
        self._fit(data, target)
        evidence = Evidence.none(self._sums(data).shape[1])
        if self.calibrate:
            evidence = self._evidence(data, target, groups)
        self.noise_ = NoiseScale.of(evidence, group)
        at = evidence.rows
        scale = self.noise_.scale(evidence.kinds, group[at], evidence.doublings)
        self.keep_residuals(
            HeldOut(evidence.residuals, scale, group[at], points(data)[at], evidence.kinds)
        )
        return self

    def provenance(self, X: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> IntArray:
        """Index in `predictors.operation_model.LABELS` of where predictions come from, shape (R,).

        Measured: the very parts were; interpolated: every part lies within those of the group's
        runs; extrapolated otherwise. Parameters as for `predict_interval`.
        """
        check_is_fitted(self)
        rows = np.atleast_2d(np.asarray(X, dtype=np.float64))
        _, kinds, _ = self._places(rows, groups)
        found = np.where(kinds == WITHIN, INTERPOLATED, EXTRAPOLATED)
        found[(kinds != NEW_MODEL) & (find_rows(self.measured_, rows) >= 0)] = MEASURED
        return found

    def predict_interval(
        self, X: npt.ArrayLike, coverage: float = 0.9, groups: npt.ArrayLike | None = None
    ) -> FloatArray:
        """Lower and upper value that hold a new measurement with probability `coverage`, (R, 2).

        Conformal, from runs held out at random, from the largest and smallest of their group, and
        from groups left out whole, each for its kind of prediction; wider the further parts lie
        beyond the group's runs, or all runs for a group that was not fitted on.

        Parameters
        ----------
        X : array_like, shape (R, F)
            Bytes of every part.
        coverage : float, default 0.9
            Probability.
        groups : array_like, shape (R,), optional
            Group of every row, as in `fit`; unknown where groups were fitted on and none is given.
        """
        middle = self.predict(X)
        return self._interval(middle, coverage, self._places(np.asarray(X, np.float64), groups))

    def predict_quantile(
        self, X: npt.ArrayLike, quantile: float = 0.9, groups: npt.ArrayLike | None = None
    ) -> FloatArray:
        """Bytes that a new measurement stays below with probability `quantile`, shape (R,).

        One-sided; otherwise, and with parameters, as `predict_interval`.
        """
        middle = self.predict(X)
        return self._quantile(middle, quantile, self._places(np.asarray(X, np.float64), groups))

    def _numbers(self, groups: npt.ArrayLike | None, rows: int) -> FloatArray:
        """Return a number for the name of every row's group, −1 for unknown ones, shape (R, 1)."""
        if groups is None:
            return np.full((rows, 1), -1.0 if self.group_names_.size else 0.0)
        known = {name: number for number, name in enumerate(self.group_names_.tolist())}
        names = _checked(groups, rows).tolist()
        return np.array([[known.get(name, -1)] for name in names], dtype=np.float64)

    def _places(self, X: FloatArray, groups: npt.ArrayLike | None = None) -> Places:
        group = self.range_.group(self._numbers(groups, len(X)))
        kinds, doublings = self._distance(X, group)
        return group, kinds, self.noise_.scale(kinds, group, doublings)

    def _distance(self, X: FloatArray, group: IntArray) -> tuple[IntArray, FloatArray]:
        """Kind of every row, and how far each phase is beyond the group's runs, (R,) and (R, P)."""
        outside = self.range_.outside(X, group)
        near = np.clip(X, self.range_.low[group], self.range_.high[group])
        common = np.minimum(X, near)
        doublings = np.log2(1 + self._sums(outside) / np.maximum(self._sums(common), 1.0))
        kinds = kind_of(group, np.any(outside > 0, axis=1), np.zeros(len(X), dtype=np.int64))
        return kinds, doublings

    def _evidence(self, X: FloatArray, y: FloatArray, groups: npt.ArrayLike | None) -> Evidence:
        """Predict runs without them: at random, far from the rest, and groups left out whole."""
        sizes = np.log2(np.maximum(self._sums(X), 1.0))
        far = [*extrapolating_folds(sizes), *extrapolating_folds(-sizes)]
        names = None if groups is None else _checked(groups, len(y))
        apart = self.group_names_.tolist() if self.group_names_.size > 1 else []
        model = clone(self).set_params(boost=self.share_, calibrate=False)
        at_random = held_out_residuals(model, X, y)
        found = [Evidence.within(np.arange(at_random.size), at_random, sizes.shape[1])]
        found += [_apart(model, X, y, names, held, BEYOND) for held in far]
        found += [_apart(model, X, y, names, np.asarray(names == one), NEW_MODEL) for one in apart]
        return Evidence.together(found)

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        self._fit_factors(X, y)
        self.correction_: SymmetricTrees | None = None
        if self.share_ > 0:
            self.correction_ = boost(
                _logs(X),
                log_residuals(y, self._physical(X)),
                trees=_TREES,
                depth=_DEPTH,
                rate=_RATE,
                ridge=_RIDGE,
                least_rows=2,
                seed=self.random_state,
            )

    def _fit_factors(self, X: FloatArray, y: FloatArray) -> None:
        """Assign runs to phases and fit, by turns, and keep the best."""
        prior = float(floats("prior_runs", self.prior_runs, (), minimum=0))
        best = np.inf
        factor, constant = np.ones(X.shape[1]), 0.0
        weight = np.where(y > 0, 1 / np.where(y > 0, y, 1.0), 1.0)
        phased, seen = self._phased(X), None
        for _ in range(_ROUNDS):
            phase = np.argmax(phased @ factor, axis=0)
            if seen is not None and np.array_equal(phase, seen):
                break
            seen = phase
            parts = phased[phase, np.arange(len(X))]
            found = _shrunk_nnls(parts * weight[:, None], weight, y * weight, prior)
            constant, factor = float(found[0]), found[1:]
            loss = float(np.mean((weight * (self._peak(phased, constant, factor) - y)) ** 2))
            if loss < best:
                best, self.constant_, self.factor_ = loss, constant, factor

    def _chosen_share(self, X: FloatArray, y: FloatArray, families: npt.NDArray[Any]) -> float:
        """Share of the correction with the least error on groups left out whole."""
        distinct = len(np.unique(families))
        if distinct < 2:
            return SHARES[0]
        errors = np.zeros(len(SHARES))
        whole = clone(self).set_params(calibrate=False, boost=1.0)
        for fit_on, held in GroupKFold(min(FOLDS, distinct)).split(X, groups=families):
            model = clone(whole).fit(X[fit_on], y[fit_on])
            physical = model._physical(X[held])
            logs = log_residuals(model._predict(X[held]), physical)
            for at, share in enumerate(SHARES):
                corrected = physical * np.exp(share * logs)
                errors[at] += np.sum(np.abs(log_residuals(y[held], corrected)))
        return SHARES[int(np.argmin(errors))]

    def _phases(self, X: FloatArray) -> list[list[int]]:
        """Columns of every phase."""
        if self.phases is None:
            return [list(range(X.shape[1]))]
        if (last := max(map(max, self.phases))) >= X.shape[1]:
            raise FieldError(f"{X.shape[1]} columns", where="X", expected=f"more than {last}")
        return [list(columns) for columns in self.phases]

    def _phased(self, X: FloatArray) -> FloatArray:
        """Parts by phase, 0 where a phase does not have them, shape (phases, R, F)."""
        phases = self._phases(X)
        found = np.zeros((len(phases), *X.shape))
        for own, columns in zip(found, phases, strict=True):
            own[:, columns] = X[:, columns]
        return found

    def _sums(self, X: FloatArray) -> FloatArray:
        """Bytes of every phase by the formulae, shape (R, phases)."""
        return np.column_stack([X[:, columns].sum(axis=1) for columns in self._phases(X)])

    @staticmethod
    def _peak(phased: FloatArray, constant: float, factor: FloatArray) -> FloatArray:
        return np.asarray(constant + np.max(phased @ factor, axis=0))

    def _physical(self, X: FloatArray) -> FloatArray:
        return self._peak(self._phased(X), self.constant_, self.factor_)

    def _check_fitted(self, state: State, columns: int) -> None:
        phases = state.take("phases")
        if phases is not None and not _are_phases(phases, columns):
            expected = f"lists of columns from 0 to {columns - 1}"
            raise state.refuse("phases", "other entries", expected)
        state.floats("factor_", (columns,), minimum=0)
        state.number("constant_")
        state.number("share_", maximum=1)
        state.number("limit_bytes_", infinite=True)
        correction = state.part("correction_", SymmetricTrees, optional=True)
        if correction is not None:
            trees, own = correction
            trees.check_state(own, columns)
        state.floats("measured_", (None, columns))
        groups = len(state.array("group_names_", "iU", (None,)))
        ranges, own = state.part("range_", MeasuredRange)
        numbers, _ = distinct_rows(np.arange(max(groups, 1), dtype=np.float64)[:, None])
        ranges.check_state(own, numbers, columns, _MOST_BYTES)
        noise, own = state.part("noise_", NoiseScale)
        noise.check_state(own, len(numbers), len(self._phases(self.factor_[None])))

    def _predict(self, X: FloatArray) -> FloatArray:
        found = self._physical(X)
        if self.correction_ is None:
            return found
        return np.asarray(found * np.exp(self.share_ * self.correction_.predict(_logs(X))))


def _shrunk_nnls(
    parts: FloatArray, constant: FloatArray, target: FloatArray, prior_runs: float
) -> FloatArray:
    """Constant and factors of at least 0 and least squares, factors drawn towards 1, (1 + F,).

    The constant is left out where there is a prior, which none is known for.
    """
    size = np.linalg.norm(constant)
    scale = np.linalg.norm(parts, axis=0)
    if prior_runs == 0:
        scale = np.where(scale > 0, scale, 1.0)
        found = nnls(np.column_stack([constant / (size or 1.0), parts / scale]), target)[0]
        return np.concatenate([found[:1] / (size or 1.0), found[1:] / scale])
    share = np.maximum(np.sqrt(np.mean(parts**2, axis=0)), _LEAST_SHARE)
    belief = np.sqrt(prior_runs) * share
    found = nnls(np.vstack([parts, np.diag(belief)]), np.concatenate([target, belief]))[0]
    return np.concatenate([[0.0], found])


def _apart(
    model: MemoryModel,
    X: FloatArray,
    y: FloatArray,
    groups: npt.NDArray[Any] | None,
    held: BoolArray,
    kind: int,
) -> Evidence:
    """Predict runs held out by a model fitted to the rest, and keep those that are of a kind."""
    rest, own = (None, None) if groups is None else (groups[~held], groups[held])
    fitted = clone(model).fit(X[~held], y[~held], rest)
    rows, group = X[held], fitted.range_.group(fitted._numbers(own, int(held.sum())))
    kinds, doublings = fitted._distance(rows, group)
    kept = kinds == kind
    residuals = log_residuals(y[held], fitted.predict(rows))[kept]
    return Evidence(np.flatnonzero(held)[kept], residuals, doublings[kept], kinds[kept])


def _are_phases(found: Any, columns: int) -> bool:
    return (
        isinstance(found, list | tuple)
        and len(found) > 0
        and all(isinstance(phase, list | tuple) and len(phase) > 0 for phase in found)
        and all(type(at) is int and 0 <= at < columns for phase in found for at in phase)
    )


def _logs(X: FloatArray) -> FloatArray:
    return np.asarray(np.sign(X) * np.log1p(np.abs(X)))


def _checked(groups: npt.ArrayLike, rows: int) -> npt.NDArray[Any]:
    found = np.asarray(groups)
    if found.shape != (rows,):
        raise FieldError(f"shape {found.shape}", where="groups", expected=f"shape ({rows},)")
    return found
