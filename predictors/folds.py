"""Which rows a model is tested on inside its own training part: at random, and beyond the rest."""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from predictors.intervals import FOLDS

_LARGE = 0.7
_LEAST_ROWS = 5
_MOST = 4


def random_folds(point: IntArray, seed: int, count: int = FOLDS) -> list[BoolArray]:
    """Masks of the rows held out by fold; repeats of one point share a fold; none below 2 points.

    Parameters
    ----------
    point : ndarray of int, shape (R,)
        Number of the distinct point of every row.
    seed : int
        Draws the folds.
    count : int, default 5
        How many, unless there are fewer points.
    """
    distinct = int(point.max()) + 1
    if distinct < 2:
        return []
    order = np.random.default_rng(seed).permutation(distinct)
    return [np.isin(point, part) for part in np.array_split(order, min(count, distinct))]


def extrapolating_folds(sizes: FloatArray) -> list[BoolArray]:
    """Masks of the rows held out for being the largest by one column each, at most 4.

    Columns with fewer than three values say nothing about growth, and what leaves fewer than five
    rows on either side is left out.

    Parameters
    ----------
    sizes : ndarray, shape (R, F)
        Columns that may be larger in use than where they were measured, most important first.
    """
    found: list[BoolArray] = []
    for own in sizes.T:
        values = np.unique(own)
        if values.size < 3 or len(found) == _MOST:
            continue
        held = own > values[int(_LARGE * (values.size - 1))]
        if min(held.sum(), (~held).sum()) >= _LEAST_ROWS:
            found.append(held)
    return found


def left_out_folds(columns: FloatArray) -> list[BoolArray]:
    """Masks of the rows held out for being of one model or GPU type each, at most 4, evenly drawn.

    Parameters
    ----------
    columns : ndarray, shape (R, W)
        What tells models or types apart; none is held out where there is only one.
    """
    distinct, place = np.unique(columns, axis=0, return_inverse=True)
    if len(distinct) < 2:
        return []
    drawn = np.unique(np.linspace(0, len(distinct) - 1, min(_MOST, len(distinct))).astype(np.int64))
    return [place.reshape(-1) == at for at in drawn]
