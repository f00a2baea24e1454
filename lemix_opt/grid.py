"""Seconds and integer ticks: the one place where they are exchanged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import FieldError

NOISE = 1e-9
"""Relative distance to a whole number of ticks that counts as floating-point noise."""

_LIMIT = 2.0**53


def _split(
    seconds: npt.ArrayLike, tick_s: float
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    ratio = np.asarray(seconds, dtype=np.float64) / tick_s
    if not np.all(np.isfinite(ratio)) or np.any(np.abs(ratio) >= _LIMIT):
        raise FieldError(
            "a time does not fit into 2^53 ticks",
            where=f"tick_s={tick_s:g}",
            expected="finite times; use a longer tick",
        )
    nearest = np.rint(ratio)
    whole = np.abs(ratio - nearest) <= NOISE * np.maximum(1.0, np.abs(ratio))
    return ratio, nearest, whole


def ticks_up(seconds: npt.ArrayLike, tick_s: float) -> IntArray:
    """Whole ticks that last at least `seconds`; noise around a whole number is forgiven."""
    ratio, nearest, whole = _split(seconds, tick_s)
    return np.where(whole, nearest, np.ceil(ratio)).astype(np.int64)


def ticks_down(seconds: npt.ArrayLike, tick_s: float) -> IntArray:
    """Whole ticks that last at most `seconds`; noise around a whole number is forgiven."""
    ratio, nearest, whole = _split(seconds, tick_s)
    return np.where(whole, nearest, np.floor(ratio)).astype(np.int64)


def on_grid(seconds: npt.ArrayLike, tick_s: float) -> bool:
    """Whether every time is a whole number of ticks, but for floating-point noise."""
    return bool(np.all(_split(seconds, tick_s)[2]))


def to_seconds(ticks: npt.ArrayLike, tick_s: float) -> FloatArray:
    """Seconds of a number of ticks."""
    return np.asarray(ticks, dtype=np.float64) * tick_s
