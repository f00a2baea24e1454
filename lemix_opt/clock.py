"""Time stamps, exactly: whole nanoseconds before anything becomes a float."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, InvalidOperation

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError

UNITS_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds of every unit of time stamps."""
LONGEST = 40
"""Digits of a stamp that are looked at; longer text is no time stamp."""
_EXACT = Context(prec=3 * LONGEST)
"""Digits of any difference of two stamps, and of its product with a unit."""


def nanoseconds(stamp: str | int | Decimal, unit: str = "s") -> int:
    """Return a time stamp in whole nanoseconds; what lies below is rounded half to even.

    Parameters
    ----------
    stamp : str, int or Decimal
        As decimal text or an exact number; floats of late hours have lost digits already.
    unit : {"s", "ms", "us", "ns"}, default "s"
        Unit of the stamp.

    Raises
    ------
    FieldError
        For text that is no decimal number, or an unknown unit.

    Examples
    --------
    >>> nanoseconds("1725000000.123456789")
    1725000000123456789
    >>> nanoseconds(15, "us")
    15000
    """
    if unit not in UNITS_NS:
        raise FieldError(f"{unit!r}", where="unit", expected=f"one of {', '.join(UNITS_NS)}")
    return int((_EXACT.multiply(exact_decimal(stamp), UNITS_NS[unit])).to_integral_value())


def exact_decimal(stamp: str | int | Decimal) -> Decimal:
    """Return a time stamp as the exact decimal that it spells, in its own unit.

    Raises
    ------
    FieldError
        For text that is no decimal number.
    """
    try:
        text = str(stamp).strip()
        if isinstance(stamp, float | np.floating) or "_" in text or not text.isascii():
            raise InvalidOperation
        exact = Decimal(text)
        if len(text) > LONGEST or not exact.is_finite() or abs(exact.adjusted()) > LONGEST:
            raise InvalidOperation
        return exact
    except InvalidOperation:
        raise FieldError(
            f"{str(stamp)[:LONGEST]!r}",
            where="time stamp",
            expected="a decimal number as text, an int or a Decimal",
        ) from None


def seconds_between(zero: Decimal, stamp: Decimal, unit: str) -> float:
    """Return the seconds from one exact time to another; only the difference becomes a float.

    Examples
    --------
    >>> seconds_between(Decimal("1725000000000000000"), Decimal("1725000000000000100"), "ns")
    1e-07
    """
    return float(_EXACT.multiply(_EXACT.subtract(stamp, zero), Decimal(UNITS_NS[unit]).scaleb(-9)))


def since_first(stamps: Sequence[str | int | Decimal], unit: str = "s") -> tuple[FloatArray, int]:
    """Return seconds since the earliest stamp, and that stamp in nanoseconds.

    Parameters
    ----------
    stamps : sequence of str, int or Decimal, length T
        As in `nanoseconds`.
    unit : {"s", "ms", "us", "ns"}, default "s"
        Unit of all stamps.

    Returns
    -------
    release_s : ndarray, shape (T,)
        For `Workload.release_s`.
    origin_ns : int
        For `Workload.origin_ns`.

    Examples
    --------
    >>> release_s, origin_ns = since_first(["1725000000.1", "1725000000.13"])
    >>> release_s.tolist(), origin_ns
    ([0.0, 0.03], 1725000000100000000)
    """
    exact = [nanoseconds(stamp, unit) for stamp in stamps]
    origin_ns = min(exact, default=0)
    return np.array([(moment - origin_ns) / 10**9 for moment in exact]), origin_ns
