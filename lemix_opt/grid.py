"""Seconds and integer ticks: the one place where they are exchanged."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import FieldError

NOISE_S = 1e-10
"""Seconds around a whole number of ticks that count as floating-point noise, at any time."""
NOISE_TICKS = 1e-3
"""The same in ticks, for ticks so short that `NOISE_S` would swallow digits that are meant."""

_LIMIT = 2.0**53


def noise_s(tick_s: float) -> float:
    """Seconds around a whole number of ticks that count as noise."""
    return min(NOISE_S, NOISE_TICKS * tick_s)


def _whole(seconds: npt.ArrayLike, tick_s: float, up: bool) -> IntArray:
    """Return the next whole numbers of ticks, `up` or down; the nearest where only noise lies off.

    Float division decides while its own error is far below the noise. Beyond that, the decimals
    that the floats stand for are divided exactly.
    """
    times = np.asarray(seconds, dtype=np.float64)
    ratio = np.asarray(times / tick_s)
    # By the extremes, into which NaN spreads too: most of the time no other array is needed.
    largest = max(-float(ratio.min()), float(ratio.max())) if ratio.size else 0.0
    if not largest < _LIMIT:
        raise FieldError(
            "a time does not fit into 2^53 ticks",
            where=f"tick_s={tick_s:g}",
            expected="finite times; use a longer tick",
        )
    noise = noise_s(tick_s) / tick_s
    nearest = np.rint(ratio)
    off = np.abs(ratio - nearest) > noise
    found = np.where(off, np.ceil(ratio) if up else np.floor(ratio), nearest).astype(np.int64)
    if np.spacing(largest) <= noise / 4:
        return found
    vague = np.spacing(np.abs(ratio)) > noise / 4
    for place in zip(*np.nonzero(np.atleast_1d(vague)), strict=True):
        at = place if times.ndim else ()
        exact = Fraction(repr(float(times[at]))) / Fraction(repr(float(tick_s)))
        whole_ticks = round(exact)
        if abs(exact - whole_ticks) > noise:
            whole_ticks = exact.numerator // exact.denominator + up
        found[at] = whole_ticks
    return found


def ticks_up(seconds: npt.ArrayLike, tick_s: float) -> IntArray:
    """Whole ticks that last at least `seconds`; noise around a whole number is forgiven."""
    return _whole(seconds, tick_s, up=True)


def ticks_down(seconds: npt.ArrayLike, tick_s: float) -> IntArray:
    """Whole ticks that last at most `seconds`; noise around a whole number is forgiven."""
    return _whole(seconds, tick_s, up=False)


def on_grid(seconds: npt.ArrayLike, tick_s: float) -> bool:
    """Whether every time is a whole number of ticks, but for floating-point noise."""
    return bool(np.all(ticks_down(seconds, tick_s) == ticks_up(seconds, tick_s)))


def to_seconds(ticks: npt.ArrayLike, tick_s: float) -> FloatArray:
    """Seconds of a number of ticks."""
    return np.asarray(ticks, dtype=np.float64) * tick_s
