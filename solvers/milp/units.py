"""A common unit of the objective's coefficients, on which bounds may be rounded up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

LARGEST_DENOMINATOR = 10**6
LARGEST_RATIO = 10**6
"""Coefficients beyond this many units would meet HiGHS's tolerances, so they get no unit."""


def common_unit(coefficients: Sequence[float]) -> float | None:
    """Return the largest number of which all coefficients are whole multiples.

    Parameters
    ----------
    coefficients : sequence of float
        Non-negative; those of variables that take whole numbers.

    Returns
    -------
    float or None
        None when there is no such number, but for floating-point noise, or only a tiny one.
    """
    positive = [c for c in coefficients if c > 0]
    if not positive:
        return 1.0
    exact = [Fraction(c).limit_denominator(LARGEST_DENOMINATOR) for c in positive]
    if any(abs(float(f) - c) > 1e-12 * c for f, c in zip(exact, positive, strict=True)):
        return None
    denominator = math.lcm(*(f.denominator for f in exact))
    numerator = math.gcd(*(f.numerator * (denominator // f.denominator) for f in exact))
    unit = numerator / denominator
    return unit if max(positive) <= LARGEST_RATIO * unit else None
