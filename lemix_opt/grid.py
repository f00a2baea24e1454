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


def _around(seconds: npt.ArrayLike, tick_s: float) -> tuple[IntArray, IntArray]:
    """Return the whole numbers of ticks below and above; one number where only noise lies between.

    Float division decides while its own error is far below the noise. Beyond that, the decimals
    that the floats stand for are divided exactly.
    """
    times = np.asarray(seconds, dtype=np.float64)
    ratio = times / tick_s
    if not np.all(np.isfinite(ratio)) or np.any(np.abs(ratio) >= _LIMIT):
        raise FieldError(
            "a time does not fit into 2^53 ticks",
            where=f"tick_s={tick_s:g}",
            expected="finite times; use a longer tick",
        )
    noise = noise_s(tick_s) / tick_s
    nearest = np.rint(ratio)
    whole = np.abs(ratio - nearest) <= noise
    down = np.where(whole, nearest, np.floor(ratio)).astype(np.int64)
    up = np.where(whole, nearest, np.ceil(ratio)).astype(np.int64)
    vague = np.spacing(np.abs(ratio)) > noise / 4
    for place in zip(*np.nonzero(np.atleast_1d(vague)), strict=True):
        at = place if times.ndim else ()
        exact = Fraction(repr(float(times[at]))) / Fraction(repr(float(tick_s)))
        whole_ticks = round(exact)
        if abs(exact - whole_ticks) <= noise:
            down[at] = up[at] = whole_ticks
        else:
            down[at] = exact.numerator // exact.denominator
            up[at] = down[at] + 1
    return down, up


def ticks_up(seconds: npt.ArrayLike, tick_s: float) -> IntArray:
    """Whole ticks that last at least `seconds`; noise around a whole number is forgiven."""
    return _around(seconds, tick_s)[1]


def ticks_down(seconds: npt.ArrayLike, tick_s: float) -> IntArray:
    """Whole ticks that last at most `seconds`; noise around a whole number is forgiven."""
    return _around(seconds, tick_s)[0]


def on_grid(seconds: npt.ArrayLike, tick_s: float) -> bool:
    """Whether every time is a whole number of ticks, but for floating-point noise."""
    down, up = _around(seconds, tick_s)
    return bool(np.all(down == up))


def to_seconds(ticks: npt.ArrayLike, tick_s: float) -> FloatArray:
    """Seconds of a number of ticks."""
    return np.asarray(ticks, dtype=np.float64) * tick_s
