"""How far off predictions are: within what was measured, beyond it, on new models and GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from predictors.intervals import POOLED_ROWS

WITHIN, BEYOND, NEW_MODEL, NEW_GPU = range(4)
"""Kinds of predictions: within the sizes measured of a model on a GPU, beyond them, of a model
that is new on a known GPU type, and on a new GPU type."""
_PER_DOUBLING = 0.05
_NEW = (0.1, 0.2)
"""Median error per doubling beyond, of a new model, and on a new GPU, where the measurements leave
nothing out that would show it. Rules of thumb from the public tables (docs/predictors.md)."""
_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Evidence:
    """Residuals of rows on models that were fitted without them, all of shape (E,).

    Parameters
    ----------
    rows : ndarray of int
        Row that was held out; one may be so more than once.
    residuals : ndarray
        Log of measured over predicted.
    doublings : ndarray
        How far it was beyond what was fitted on.
    kinds : ndarray of int
        `WITHIN`, `BEYOND`, `NEW_MODEL` or `NEW_GPU`.
    """

    rows: IntArray
    residuals: FloatArray
    doublings: FloatArray
    kinds: IntArray

    @classmethod
    def within(cls, rows: IntArray, residuals: FloatArray) -> Evidence:
        """Residuals on random folds."""
        return cls(rows, residuals, np.zeros(rows.size), np.full(rows.size, WITHIN))

    @classmethod
    def beyond(cls, rows: IntArray, residuals: FloatArray, doublings: FloatArray) -> Evidence:
        """Residuals on folds of the largest; those that happen to lie within are left out."""
        out = doublings > 0
        return cls(rows[out], residuals[out], doublings[out], np.full(int(out.sum()), BEYOND))

    @classmethod
    def together(cls, parts: Sequence[Evidence]) -> Evidence:
        """Return all parts as one."""
        nothing = np.empty(0, dtype=np.int64)
        every = [cls(nothing, np.empty(0), np.empty(0), nothing), *parts]
        return cls(
            np.concatenate([part.rows for part in every]),
            np.concatenate([part.residuals for part in every]),
            np.concatenate([part.doublings for part in every]),
            np.concatenate([part.kinds for part in every]),
        )


@dataclass(frozen=True, eq=False)
class NoiseScale:
    """Width of residuals, for conformal scores that are alike everywhere (Lei et al. 2018).

    Parameters
    ----------
    within : ndarray, shape (G,)
        Median absolute residual of every group, leaning on that of all.
    per_doubling : float
        What it grows by per doubling beyond the measured sizes.
    new : ndarray, shape (2,)
        Median absolute residual of new models and of new GPUs.
    """

    within: FloatArray
    per_doubling: float
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
        far = kinds == BEYOND
        growth = _median(size[far], _PER_DOUBLING) / _median(evidence.doublings[far], 1.0)
        new = [
            _median(size[kinds == kind], rule)
            for kind, rule in zip((NEW_MODEL, NEW_GPU), _NEW, strict=True)
        ]
        return cls(np.maximum(within, _LEAST), growth, np.maximum(new, _LEAST))

    def scale(self, kinds: IntArray, groups: IntArray, doublings: FloatArray) -> FloatArray:
        """Width of the residuals of rows, shape (R,); groups are −1 where they are new."""
        new = np.clip(kinds - NEW_MODEL, 0, 1)
        here = np.where(kinds >= NEW_MODEL, self.new[new], self.within[groups])
        return np.asarray(here + self.per_doubling * doublings)


def _median(values: FloatArray, nothing: float) -> float:
    return float(np.median(values)) if values.size else nothing
