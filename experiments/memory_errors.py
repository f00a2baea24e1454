"""How well peak memory is predicted on runs held out, and which runs out of memory are foreseen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from experiments.memory_profiles import MemoryProfile, memory_profile
from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.table import Table

if TYPE_CHECKING:
    from predictors.errors_by_split import SplitError
    from predictors.memory_model import MemoryModel
    from predictors.memory_spread import MemorySpread
    from predictors.out_of_memory import Share

FOLDS = 5
SEEDS = 3
PRIOR_RUNS = 10.0
"""Weight of the published formulae, in runs."""


_STATES = ("weights", "moments", "held_gradients", "gathered")


@dataclass(frozen=True)
class Coverage:
    """How many held-out peaks lie in their interval.

    Parameters
    ----------
    group : str
        Which runs.
    held_out : int
        How many.
    share : float
        Share of them inside.
    """

    group: str
    held_out: int
    share: float


@dataclass(frozen=True)
class Failures:
    """Runs out of memory that were foreseen, and runs that were wrongly said to fail.

    Parameters
    ----------
    recall, false_alarms : Share
        Of the runs that failed and of those that ran.
    limits_bytes : tuple of float
        Limit of every fold, chosen inside its training part.
    """

    recall: Share
    false_alarms: Share
    limits_bytes: tuple[float, ...]


def memory_model(boost: float | None = None, calibrate: bool = True) -> MemoryModel:
    """Return the model for parts of `predictors.memory_parts`, not fitted yet."""
    from predictors.memory_model import MemoryModel
    from predictors.memory_parts import PHASES

    return MemoryModel(PHASES, PRIOR_RUNS, boost, calibrate=calibrate)


def fit_memory(table: Table) -> tuple[MemoryModel, list[SplitError]]:
    """Fit the memory model to an fms table, and measure its errors on held-out runs.

    Groups of the model are models as the table names them. The target is the peak of torch's
    allocator: nvidia-smi's bytes hold what the allocator keeps in reserve, end at the card's
    capacity, and are those of some moment before the end in runs that failed.

    Returns
    -------
    model : MemoryModel
        Fitted to all runs with a peak.
    errors : list of SplitError
        Errors by how runs were held out, physical formulae alone included.
    """
    return fit_profile(memory_profile(table))


def fit_profile(profile: MemoryProfile) -> tuple[MemoryModel, list[SplitError]]:
    """Fit and judge as `fit_memory` does."""
    X, y, names = _measured(profile)
    return memory_model().fit(X, y, names), split_errors(profile)


def split_errors(profile: MemoryProfile) -> list[SplitError]:
    """Errors on a random fifth, on models left out, and on shapes left out.

    With the formulae alone, with factors, and with factors and the guarded correction.
    """
    from predictors.errors_by_split import SplitError, mape_pct, random_fifths

    X, y, names = _measured(profile)
    shapes = profile.shape[profile.measured]
    found = [SplitError("physics alone, all runs", 0, len(y), mape_pct(y, physics(X)), 1)]
    for said, boost in (("factors", 0.0), ("factors and boosting", None)):
        masks = random_fifths(X)
        errors = [
            mape_pct(y[~m], memory_model(boost, False).fit(X[m], y[m], names[m]).predict(X[~m]))
            for m in masks
        ]
        fitted = int(masks[0].sum())
        found.append(
            SplitError(
                f"{said}, random fifth", fitted, len(y) - fitted, float(np.mean(errors)), len(masks)
            )
        )
        for what, groups in (("model", names), ("shape", shapes)):
            apart = np.empty(len(y))
            for name in np.unique(groups):
                held = groups == name
                model = memory_model(boost, False).fit(X[~held], y[~held], groups[~held])
                apart[held] = model.predict(X[held])
            count = len(np.unique(groups))
            split = f"{said}, unseen {what} (each of {count})"
            found.append(SplitError(split, len(y) - len(y) // count, len(y), mape_pct(y, apart), 1))
    return found


def held_spread(profile: MemoryProfile) -> MemorySpread:
    """Residuals of what runs hold beside weights and states, every shape predicted from the others.

    Of runs that peak at the loss or in a layer's backward: what is measured beyond the predicted
    states, over what is predicted beyond them, by factors alone.
    """
    from predictors.memory_parts import PARTS, PHASES
    from predictors.memory_spread import MemorySpread

    X, y, _ = _measured(profile)
    shapes = profile.shape[profile.measured]
    always = [PARTS.index(name) for name in _STATES]
    found = []
    for name in np.unique(shapes):
        held = shapes == name
        model = memory_model(0.0, False).fit(X[~held], y[~held])
        parts = X[held] * model.factor_
        peaks = np.array([parts[:, list(columns)].sum(axis=1) for columns in PHASES])
        states = parts[:, always].sum(axis=1)
        predicted, measured = peaks[1:].max(axis=0) - states, y[held] - states
        working = (np.argmax(peaks, axis=0) > 0) & (measured > 0)
        found.append(np.log(measured[working] / predicted[working]))
    return MemorySpread(np.sort(np.concatenate(found)), profile.source, profile.sha256)


def physics(X: FloatArray) -> FloatArray:
    """Peak by the published formulae alone, every factor 1, shape (R,)."""
    from predictors.memory_parts import PHASES

    return np.asarray(np.max([X[:, list(columns)].sum(axis=1) for columns in PHASES], axis=0))


def coverages(profile: MemoryProfile, coverage: float = 0.9, seeds: int = SEEDS) -> list[Coverage]:
    """Share of held-out peaks inside their interval, five random folds, pooled over seeds.

    Over all runs, and by model, framework and number of GPUs.
    """
    X, y, names = _measured(profile)
    inside = np.zeros((seeds, len(y)))
    for seed in range(seeds):
        for fit_on, held in _folds(np.arange(len(y)), seed):
            model = memory_model().fit(X[fit_on], y[fit_on], names[fit_on])
            low, high = model.predict_interval(X[held], coverage, names[held]).T
            inside[seed, held] = (low <= y[held]) & (y[held] <= high)
    found = [Coverage("all runs", len(y), float(inside.mean()))]
    labels: list[tuple[str, npt.NDArray[Any]]] = [
        ("model", names),
        ("framework", profile.framework[profile.measured]),
        ("GPUs", profile.gpus[profile.measured]),
    ]
    for what, groups in labels:
        for name in np.unique(groups):
            mine = groups == name
            share = float(inside[:, mine].mean())
            found.append(Coverage(f"{what} {name or 'not named'}", int(mine.sum()), share))
    return found


def out_of_memory(profile: MemoryProfile, seed: int = 0) -> Failures:
    """Foresee runs out of memory in five folds of (model, framework), pooled.

    In every fold the model is fitted to the training part's peaks, and the limit to predictions of
    the training part's runs by models fitted without their groups.
    """
    from predictors.out_of_memory import exact_share

    groups = _configurations(profile)
    said = np.zeros(len(groups), dtype=np.bool_)
    limits = []
    for fit_on, held in _folds(groups, seed):
        model = _fitted(profile, fit_on, None)
        limit = _limit(profile, fit_on, model.share_, seed)
        limits.append(limit)
        said[held] = model.predict(profile.parts[held]) > limit
    ran = ~profile.failed
    return Failures(
        exact_share(int(np.sum(said & profile.failed)), int(profile.failed.sum())),
        exact_share(int(np.sum(said & ran)), int(ran.sum())),
        tuple(limits),
    )


def failure_limit(profile: MemoryProfile, share: float, seed: int = 0) -> float:
    """Bytes of predicted peak above which a run is said to fail, chosen on all runs.

    They are predicted without their (model, framework) group, as in every fold of `out_of_memory`.
    """
    return _limit(profile, np.arange(len(profile.failed)), share, seed)


def _limit(profile: MemoryProfile, rows: IntArray, share: float, seed: int) -> float:
    from predictors.out_of_memory import fit_limit

    predicted = np.empty(rows.size)
    for fit_on, held in _folds(_configurations(profile)[rows], seed):
        again = _fitted(profile, rows[fit_on], share)
        predicted[held] = again.predict(profile.parts[rows[held]])
    return fit_limit(predicted, profile.failed[rows])


def _configurations(profile: MemoryProfile) -> npt.NDArray[np.str_]:
    pairs = zip(profile.model, profile.framework, strict=True)
    return np.array([f"{model} | {framework}" for model, framework in pairs])


def _fitted(profile: MemoryProfile, rows: IntArray, boost: float | None) -> MemoryModel:
    """Fit a model to those of the rows whose peak was measured."""
    rows = rows[profile.measured[rows]]
    model = memory_model(boost, calibrate=False)
    return model.fit(profile.parts[rows], profile.peak_bytes[rows], profile.model[rows])


def _folds(groups: npt.NDArray[Any], seed: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield rows to fit on and rows held out, groups whole."""
    from sklearn.model_selection import GroupKFold

    # Folds of equal size in groups; which groups lie together is drawn.
    names, place = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(names.size)[place]
    folds = GroupKFold(min(FOLDS, names.size))
    for fit_on, held in folds.split(np.zeros(len(groups)), groups=drawn):
        yield np.asarray(fit_on, dtype=np.int64), np.asarray(held, dtype=np.int64)


def _measured(profile: MemoryProfile) -> tuple[FloatArray, FloatArray, npt.NDArray[np.str_]]:
    rows: BoolArray = profile.measured
    return profile.parts[rows], profile.peak_bytes[rows], profile.model[rows]
