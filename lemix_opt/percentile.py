"""The one percentile of this toolkit."""

from __future__ import annotations

from math import ceil, nan

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-9
"""Ranks that lie above a whole number by no more than this are that number."""


def percentile(values: npt.ArrayLike, q: float) -> float:
    """Return the nearest-rank percentile: the least value with q % of all values at or below it.

    It is always one of the values, so that infinite responses of unfinished requests never mix with
    finite ones; interpolating between two infinite values would give NaN.

    Parameters
    ----------
    values : array_like
        The sample, of any shape.
    q : float
        Percent, from 0 (the minimum) to 100 (the maximum); 50 is the median, which is the lower
        one of the two in the middle of an even number of values.

    Returns
    -------
    float
        NaN for no values, or where one of them is NaN.
    """
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if not 0 <= q <= 100:
        raise ValueError(f"q = {q:g} percent; expected 0 to 100")
    if not sample.size or np.isnan(sample).any():
        return nan
    rank = max(ceil(q * sample.size / 100 - _ROUNDING), 1)
    return float(np.partition(sample, rank - 1)[rank - 1])
