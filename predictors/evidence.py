"""How far off predictions are: within what was measured, beyond it, on new models and GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from predictors.intervals import POOLED_ROWS
from predictors.state import State

WITHIN, BEYOND, NEW_MODEL, NEW_GPU = range(4)
"""Kinds of predictions: within the sizes measured of a model on a GPU, beyond them, of a model
that is new on a known GPU type, and on a new GPU type."""
_PER_DOUBLING = 0.1
_LEAST_PER_DOUBLING = 0.03
_NEW = (0.1, 0.2)
"""Typical error per doubling beyond, of a new model, and on a new GPU, where the measurements leave
nothing out that would show it; and the least per doubling, since what held once more may not hold
for the next. Rules of thumb from the public tables (docs/predictors.md)."""
_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Evidence:
    """Residuals of rows on models that were fitted without them.

    Parameters
    ----------
    rows : ndarray of int, shape (E,)
        Row that was held out; one may be so more than once.
    residuals : ndarray, shape (E,)
        Log of measured over predicted.
    doublings : ndarray, shape (E, F)
        How far it was beyond what was fitted on, by size.
    kinds : ndarray of int, shape (E,)
        `WITHIN`, `BEYOND`, `NEW_MODEL` or `NEW_GPU`.
    """

    rows: IntArray
    residuals: FloatArray
    doublings: FloatArray
    kinds: IntArray

    @classmethod
    def within(cls, rows: IntArray, residuals: FloatArray, sizes: int) -> Evidence:
        """Residuals on random folds, of operations with so many sizes."""
        return cls(rows, residuals, np.zeros((rows.size, sizes)), np.full(rows.size, WITHIN))

    @classmethod
    def none(cls, sizes: int) -> Evidence:
        """No residuals, of operations with so many sizes."""
        return cls.within(np.empty(0, dtype=np.int64), np.empty(0), sizes)

    @classmethod
    def beyond(cls, rows: IntArray, residuals: FloatArray, doublings: FloatArray) -> Evidence:
        """Residuals on folds of the largest; those that happen to lie within are left out."""
        out = np.any(doublings, axis=1)
        return cls(rows[out], residuals[out], doublings[out], np.full(int(out.sum()), BEYOND))

    @classmethod
    def together(cls, parts: Sequence[Evidence]) -> Evidence:
        """Return all parts, at least one, as one."""
        return cls(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.residuals for part in parts]),
            np.concatenate([part.doublings for part in parts]),
            np.concatenate([part.kinds for part in parts]),
        )


def kind_of(group: IntArray, out: BoolArray, gpu: IntArray) -> IntArray:
    """Kind of predictions, shape (R,).

    Parameters
    ----------
    group, gpu : ndarray of int, shape (R,)
        Numbers of model and GPU type, −1 for those that were not measured.
    out : ndarray of bool, shape (R,)
        Whether a size lies outside of what was measured.
    """
    known = np.where(out, BEYOND, WITHIN)
    return np.where(group >= 0, known, np.where(gpu >= 0, NEW_MODEL, NEW_GPU))


@dataclass(frozen=True, eq=False)
class NoiseScale:
    """Width of residuals, for conformal scores that are alike everywhere (Lei et al. 2018).

    Parameters
    ----------
    within : ndarray, shape (G,)
        Median absolute residual of every group, leaning on that of all.
    per_doubling : ndarray, shape (F,)
        What it grows by per doubling beyond each of the measured sizes.
    new : ndarray, shape (2,)
        Median absolute residual of new models and of new GPUs.
    """

    within: FloatArray
    per_doubling: FloatArray
    new: FloatArray

    @classmethod
    def of(cls, evidence: Evidence, groups: IntArray) -> NoiseScale:
        """Estimate from evidence on rows whose groups are `groups`, shape (R,)."""
        size, kinds = np.abs(evidence.residuals), evidence.kinds
        near = kinds == WITHIN
        middle = _median(size[near], _PER_DOUBLING)
        own_group = groups[evidence.rows]
        within = np.empty(int(groups.max()) + 1)
        for group in range(within.size):
            own = size[near & (own_group == group)]
            count = own.size
            within[group] = count * _median(own, 0.0) + POOLED_ROWS * middle
            within[group] /= count + POOLED_ROWS
        growth = _growth(evidence, size, within[own_group])
        new = [
            _median(size[kinds == kind], rule)
            for kind, rule in zip((NEW_MODEL, NEW_GPU), _NEW, strict=True)
        ]
        return cls(np.maximum(within, _LEAST), growth, np.maximum(new, _LEAST))

    def check_state(self, state: State, groups: int, sizes: int) -> None:
        """Check what a file says of so many groups and sizes."""
        state.floats("within", (groups,), minimum=0)
        state.floats("per_doubling", (sizes,), minimum=0)
        state.floats("new", (2,), minimum=0)
        state.end()

    def scale(self, kinds: IntArray, groups: IntArray, doublings: FloatArray) -> FloatArray:
        """Width of the residuals of rows, shape (R,); groups are −1 where they are new."""
        new = np.clip(kinds - NEW_MODEL, 0, 1)
        found = np.where(kinds >= NEW_MODEL, self.new[new], self.within[groups])
        for size, growth in zip(doublings.T, self.per_doubling, strict=True):
            found += size * growth
        return found


def _growth(evidence: Evidence, size: FloatArray, within: FloatArray) -> FloatArray:
    """Return what residuals grow by per doubling: non-negative least squares, shape (F,).

    A size that was never left out grows as the worst of the others, and no less than by rule.
    """
    far = evidence.kinds == BEYOND
    doublings = evidence.doublings[far]
    known = doublings.any(axis=0)
    found = np.full(known.size, _PER_DOUBLING)
    if known.any():
        more = np.maximum(size[far] - within[far], 0)
        shown, _ = nnls(doublings[:, known], more)
        found[known] = np.maximum(shown, _LEAST_PER_DOUBLING)
        found[~known] = max(_PER_DOUBLING, float(shown.max()))
    return found


def _median(values: FloatArray, nothing: float) -> float:
    return float(np.median(values)) if values.size else nothing
