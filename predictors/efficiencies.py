"""Non-negative fits of physical terms, group by group, each leaning on the group above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dpotrf, dtrtrs
from scipy.optimize import nnls

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from predictors.state import State

_STEPS = (12, 8, 4)
"""Steps of the fit by level: the widest group starts farthest from where it ends."""
_BEND = 0.05
"""Relative residual from which rows count by their absolute instead of squared error, at least."""
_NOISE = 0.05
"""Relative error of a row that a coefficient's distance from its prior is weighed against."""
_NEW = 0.1
"""Part of a term's first width that a group may add to what the group above has."""
_ODD, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


@dataclass(frozen=True, eq=False)
class Prior:
    """What coefficients are before anything is measured, and how uncertain, both shape (K,)."""

    mean: FloatArray
    width: FloatArray


@dataclass(frozen=True, eq=False)
class TermTree:
    """Coefficients of physical terms: for all rows, and for groups within groups.

    Parameters
    ----------
    keys : tuple of ndarray, level l of shape (G_l, W_l)
        Columns that tell the groups of a level apart, ascending; the first level is the widest.
    coefficients : tuple of ndarray, level l of shape (G_l, K)
        Seconds per second at peak rates.
    """

    keys: tuple[FloatArray, ...]
    coefficients: tuple[FloatArray, ...]
    blocks: IntArray
    sharpness: float

    def predict(self, terms: FloatArray, levels: Sequence[FloatArray]) -> FloatArray:
        """Seconds by the deepest known group of every row, shape (R,); NaN where none is."""
        return self.seconds(terms, self.find(levels))

    def check_state(self, state: State, widths: tuple[int, ...], terms: int) -> None:
        """Check what a file says of so many terms, and levels of so many columns."""
        keys = state.arrays("keys", tuple((None, width) for width in widths))
        if not all(map(len, keys)):
            raise state.refuse("keys", "a level without groups", "one group at least")
        state.arrays("coefficients", tuple((len(own), terms) for own in keys), minimum=0)
        state.integers("blocks", (terms,), 0, terms - 1)
        state.number("sharpness", minimum=1)
        state.end()

    def find(self, levels: Sequence[FloatArray]) -> IntArray:
        """Return the deepest known group of every row, shape (R,); −1 where none is.

        Groups are numbered level by level from the deepest, so that the G groups of the deepest
        level are 0 to G - 1.
        """
        found = np.full(len(levels[0]), -1)
        left, first = np.arange(len(found)), 0
        for keys, rows in zip(reversed(self.keys), reversed(levels), strict=True):
            node = find_rows(keys, rows if left.size == len(rows) else rows[left])
            known = node >= 0
            found[left[known]] = first + node[known]
            left, first = left[~known], first + len(keys)
            if not left.size:
                break
        return found

    def seconds(self, terms: FloatArray, group: IntArray) -> FloatArray:
        """Seconds by the groups that `find` returned, shape (R,); NaN where there is none."""
        table = self._table()
        parts = np.zeros((int(self.blocks.max()) + 1, len(terms)))
        place = np.where(group < 0, len(table) - 1, group)
        for term, coefficient, block in zip(terms.T, table.T, self.blocks, strict=True):
            parts[block] += term * np.take(coefficient, place)
        return _together(parts.T, self.sharpness)

    def shares(self, terms: FloatArray, group: IntArray) -> FloatArray:
        """Return the derivatives of log seconds by the log of each coefficient, shape (R, K).

        They add up to 1 in every row; NaN where there is no group.
        """
        each = terms * self._table()[group]
        parts = _by_block(each, np.ones(each.shape[1]), self.blocks)
        total = _together(parts, self.sharpness)[:, None]
        slopes = (parts / total) ** (self.sharpness - 1) / total
        return np.asarray(each * slopes[:, self.blocks])

    def _table(self) -> FloatArray:
        """Coefficients by the number of `find`; NaN in the last row, which is that of −1."""
        none = np.full((1, self.coefficients[0].shape[1]), np.nan)
        return np.concatenate([*reversed(self.coefficients), none])


def overlap(
    terms: FloatArray, coefficients: FloatArray, blocks: IntArray, sharpness: float
) -> FloatArray:
    """Seconds of blocks of terms that run at the same time, shape (R,).

    (Σ block^p)^(1/p): their sum at sharpness p = 1, the longest one alone for p to infinity.
    """
    parts = np.zeros((int(blocks.max()) + 1, len(terms)))
    for term, coefficient, block in zip(terms.T, coefficients, blocks, strict=True):
        parts[block] += term * coefficient
    return _together(parts.T, sharpness)


def _together(parts: FloatArray, sharpness: float) -> FloatArray:
    """Seconds of blocks that overlap, shape (R,)."""
    if sharpness == 1:
        return np.asarray(parts.sum(axis=1))
    if sharpness == 2:
        # Block by block: other sums add up in an order that depends on how many rows there are.
        squares = np.zeros(len(parts))
        for part in parts.T:
            squares += part * part
        return np.asarray(np.sqrt(squares))
    longest = np.maximum(parts.max(axis=1, keepdims=True), 1e-30)
    summed = np.sum((parts / longest) ** sharpness, axis=1)
    return np.asarray(longest[:, 0] * summed ** (1 / sharpness))


def _by_block(terms: FloatArray, coefficients: FloatArray, blocks: IntArray) -> FloatArray:
    """Sum of the terms of every block, shape (R, blocks)."""
    members = np.zeros((len(blocks), int(blocks.max()) + 1))
    members[np.arange(len(blocks)), blocks] = coefficients
    return np.asarray(terms @ members)


def find_rows(keys: FloatArray, rows: FloatArray) -> IntArray:
    """Return which row of `keys` each row equals, −1 for none, shape (R,)."""
    distinct, place = distinct_rows(rows)
    known = {tuple(key): at for at, key in enumerate(keys.tolist())}
    found = [known.get(tuple(row), -1) for row in distinct.tolist()]
    return np.array(found, dtype=np.int64)[place]


def distinct_rows(rows: FloatArray) -> tuple[FloatArray, IntArray]:
    """Return distinct rows, and which of them every row is, shape (R,)."""
    _, first, place = np.unique(_hashes(rows), return_index=True, return_inverse=True)
    return rows[first], np.asarray(place).reshape(-1)


def _hashes(rows: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Hash every row by its bits, shape (R,): much faster to sort than rows are."""
    found = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        # Adding 0 makes one zero of two.
        found ^= (column + 0.0).view(np.uint64)
        found *= _ODD
        found ^= found >> _HALF
    return found


def fit_tree(
    terms: FloatArray,
    y: FloatArray,
    levels: tuple[FloatArray, ...],
    spread: float,
    default: Prior,
    blocks: IntArray,
    sharpness: float,
    weights: FloatArray | None = None,
    freedom: npt.ArrayLike = 1.0,
    partial: Mapping[int, BoolArray] | None = None,
) -> TermTree:
    """Fit coefficients level by level; those of a group lean on those of the group above it.

    Parameters
    ----------
    terms : ndarray, shape (R, K)
        Seconds at peak rates.
    y : ndarray, shape (R,)
        Measured seconds.
    levels : tuple of ndarray, level l of shape (R, W_l)
        Columns that tell the groups of a level apart.
    spread : float
        Relative distance of a group's coefficients from those of the group above it.
    weights : ndarray, shape (R,), optional
        Weight of every row; 1 when omitted.
    freedom : array_like, shape (K,) or scalar, default 1
        What `spread` is multiplied by, by term; more than 0.
    partial : mapping of int to ndarray of bool, shape (K,), optional
        Levels whose groups differ in some terms only. They are fitted along with the level above,
        which has the other terms of all of them. Neither the widest level nor two in a row.
    """
    partial = partial or {}
    own_spread = spread * np.asarray(freedom, dtype=np.float64)
    each = np.ones(len(y)) if weights is None else weights
    keys, places = zip(*(distinct_rows(level) for level in levels), strict=True)
    tables = tuple(np.empty((len(own), terms.shape[1])) for own in keys)
    above = np.broadcast_to(default.mean, terms.shape)
    for depth, (table, place) in enumerate(zip(tables, places, strict=True)):
        for at in range(0 if depth in partial else len(table)):
            rows = place == at
            mean = above[np.argmax(rows)]
            loose = own_spread * (mean + _NEW * default.width)
            unknowns = _Unknowns.of(mean, loose if depth else default.width)
            inside, parts = terms[rows] / y[rows, None], np.empty(0, dtype=np.int64)
            if depth + 1 in partial:
                parts, part = np.unique(places[depth + 1][rows], return_inverse=True)
                differs = np.flatnonzero(partial[depth + 1])
                unknowns = unknowns.apart(differs, len(parts), loose)
                inside = unknowns.spread_out(inside, part)
            steps = _STEPS[min(depth, len(_STEPS) - 1)]
            found = _robust(inside, each[rows], unknowns, blocks, sharpness, steps)
            table[at] = found[: len(mean)]
            if parts.size:
                tables[depth + 1][parts] = unknowns.by_part(found)
        above = table[place]
    return TermTree(keys, tables, blocks, sharpness)


@dataclass(frozen=True, eq=False)
class _Unknowns:
    """Coefficients of a group and, of some terms, those of each of its parts as well.

    Parameters
    ----------
    mean, precision : ndarray, shapes (U,) and (U, U)
        What they are believed to be, weighed against the relative errors of rows: first those of
        all K terms, then the ones of each part in turn.
    terms : ndarray of int, shape (U,)
        Term of each.
    differs : ndarray of int, shape (D,)
        Terms that parts have of their own.
    parts : int
        How many parts there are.
    """

    mean: FloatArray
    precision: FloatArray
    terms: IntArray
    differs: IntArray
    parts: int

    @classmethod
    def of(cls, mean: FloatArray, width: FloatArray) -> _Unknowns:
        """One coefficient per term."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(mean, np.diag((_NOISE / width) ** 2), np.arange(mean.size), nothing, 0)

    def apart(self, differs: IntArray, parts: int, width: FloatArray) -> _Unknowns:
        """Give each part coefficients of its own, about as far as `width` from the group's."""
        first = self.terms.size
        terms = np.concatenate([self.terms, np.tile(differs, parts)])
        precision = np.zeros((terms.size, terms.size))
        precision[:first, :first] = self.precision
        for at, term in enumerate(terms[first:].tolist(), start=first):
            trust = (_NOISE / width[term]) ** 2
            precision[[at, term], [at, term]] += trust
            precision[[at, term], [term, at]] -= trust
        return _Unknowns(self.mean[terms], precision, terms, differs, parts)

    def spread_out(self, terms: FloatArray, part: IntArray) -> FloatArray:
        """Return the terms (R, K) by unknown, shape (R, U), of rows in these parts."""
        found = terms[:, self.terms]
        found[:, self.differs] = 0.0
        own = found[:, terms.shape[1] :].reshape(len(terms), self.parts, self.differs.size)
        own[np.arange(self.parts) != part[:, None]] = 0.0
        return np.concatenate([found[:, : terms.shape[1]], own.reshape(len(terms), -1)], axis=1)

    def by_part(self, found: FloatArray) -> FloatArray:
        """Return the coefficients of every part, shape (parts, K)."""
        own = self.parts * self.differs.size
        table = np.tile(found[: found.size - own], (self.parts, 1))
        table[:, self.differs] = found[found.size - own :].reshape(self.parts, -1)
        return table


def _robust(
    relative: FloatArray,
    weights: FloatArray,
    unknowns: _Unknowns,
    blocks: IntArray,
    sharpness: float,
    steps: int,
) -> FloatArray:
    """Coefficients of at least 0 by Huber's loss of relative errors, leaning on what is believed.

    Parameters
    ----------
    relative : ndarray, shape (R, U)
        Terms by unknown, over measured seconds.
    weights : ndarray, shape (R,)
        Weight of every row.
    """
    scale = np.mean(relative**2, axis=0)
    mean, precision, blocks = unknowns.mean, unknowns.precision, blocks[unknowns.terms]

    def seen(found: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        parts = _by_block(relative, found, blocks)
        total = _together(parts, sharpness)
        return parts, total, np.abs(total - 1)

    found, damping = mean, 0.1 * len(relative)
    parts, total, miss = seen(found)
    for _ in range(steps):
        counts = weights * _huber(miss)
        slope = relative * _slopes(parts, total, sharpness)[:, blocks]
        weighted = slope * counts[:, None]
        hold = damping * scale
        gram = weighted.T @ slope + precision
        _diagonal(gram)[:] += hold
        new = _gram_nnls(gram, weighted.sum(axis=0) + precision @ mean + hold * found)
        new_parts, new_total, new_miss = seen(new)
        before, after = (
            float(counts @ m**2 + (c - mean) @ precision @ (c - mean))
            for m, c in ((miss, found), (new_miss, new))
        )
        if after < before:
            found, damping = new, damping / 3
            parts, total, miss = new_parts, new_total, new_miss
        else:
            damping *= 10
    return found


def _gram_nnls(gram: FloatArray, right: FloatArray) -> FloatArray:
    """Coefficients of at least 0 and least squared error, from the normal equations."""
    scale = np.sqrt(_diagonal(gram))
    scale[scale == 0] = 1.0
    gram = gram / (scale[:, None] * scale)
    # A trace of ridge keeps columns apart that are the same on these rows.
    _diagonal(gram)[:] += 1e-9
    triangle, _ = dpotrf(gram)
    target, _ = dtrtrs(triangle, right / scale, trans=1)
    return np.asarray(nnls(triangle, target)[0] / scale)


def _diagonal(square: FloatArray) -> FloatArray:
    """Return a view of the diagonal of an array whose rows lie one behind another."""
    return square.reshape(-1)[:: len(square) + 1]


def _huber(miss: FloatArray) -> FloatArray:
    # The median, several times faster than numpy's on few rows.
    ascending = np.sort(miss)
    median = (ascending[(miss.size - 1) // 2] + ascending[miss.size // 2]) / 2
    bend = max(_BEND, 1.5 * float(median))
    return np.minimum(1.0, bend / np.maximum(miss, 1e-12))


def _slopes(parts: FloatArray, total: FloatArray, sharpness: float) -> FloatArray:
    """Return derivatives of `overlap` by its blocks, which it is the weighted sum of."""
    shares = parts / np.maximum(total, 1e-30)[:, None]
    return np.asarray(np.maximum(shares, 0.02) ** (sharpness - 1))
