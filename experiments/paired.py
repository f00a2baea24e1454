"""Paired comparison: the mean difference over seeds and its confidence interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError


class Difference(NamedTuple):
    """Mean of paired differences and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def paired(values: FloatArray, base: FloatArray, confidence: float = 0.95) -> Difference:
    """Return the mean of ``values - base`` with Student's t interval.

    Parameters
    ----------
    values, base : array_like, shape (R,)
        One value per seed, in the same order of seeds; R at least 2.
    confidence : float, default 0.95
        Coverage of the interval.

    Raises
    ------
    FieldError
        If the shapes differ or there are fewer than two pairs.
    """
    from scipy.stats import t

    found, other = np.asarray(values, dtype=np.float64), np.asarray(base, dtype=np.float64)
    if found.shape != other.shape or found.ndim != 1 or found.size < 2:
        raise FieldError(
            f"shapes {found.shape} and {other.shape}",
            where="values, base",
            expected="two columns of equal length, at least 2",
        )
    difference = found - other
    half = t.ppf((1 + confidence) / 2, difference.size - 1)
    half *= difference.std(ddof=1) / np.sqrt(difference.size)
    mean = float(difference.mean())
    return Difference(mean, mean - float(half), mean + float(half))
