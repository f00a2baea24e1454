"""Actual times out of measured points: interpolation between what was measured, never a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import BoolArray, FloatArray, IntArray, floats, integers
from lemix_opt.errors import FieldError

MEASURED, INTERPOLATED, LENGTH_EXTRAPOLATED = 0, 1, 2
LABELS = (
    "measured",
    "interpolated between measured tokens",
    "measured at equal tokens, length extrapolated",
)
_MIN_REPEATED_POINTS = 3
_FALL = 1.25


@dataclass(frozen=True, eq=False)
class MeasuredTimes:
    """Measured seconds by batch rows and length.

    Parameters
    ----------
    batch, length : array_like of int, shape (R,)
        Rows and tokens per row of every run.
    seconds : array_like, shape (R,)
        Measured times; NaN marks a run that is missing, which is left out and counted.
    source : str
        Where the points come from.

    Attributes
    ----------
    missing : int
        Runs left out because they have no time.
    implausible : int
        Runs left out because runs with fewer tokens took over 1.25 times as long: their batch was
        most likely not run in one piece.
    spread : float or None
        Relative spread of repeats (deviation of log seconds within points, pooled); None when
        the source has no repeats.
    """

    batch: IntArray
    length: IntArray
    seconds: FloatArray
    source: str
    missing: int = field(init=False)
    implausible: int = field(init=False)
    spread: float | None = field(init=False)
    _tokens: FloatArray = field(init=False, repr=False)
    _times: FloatArray = field(init=False, repr=False)
    _points: dict[tuple[int, int], float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        raw = np.asarray(self.seconds, dtype=np.float64)
        here = ~np.isnan(raw)
        batch = integers("batch", self.batch, raw.shape, minimum=1)[here]
        length = integers("length", self.length, raw.shape, minimum=1)[here]
        seconds = floats("seconds", raw[here], above=0)
        falls = ~self.plausible(batch * length, seconds)
        batch, length, seconds = batch[~falls], length[~falls], seconds[~falls]
        if seconds.size < 2:
            raise FieldError(
                f"{seconds.size} measured points", where=self.source, expected="at least two"
            )
        tokens, times = _by_tokens(batch * length, seconds)
        shapes, point = np.unique(np.column_stack([batch, length]), axis=0, return_inverse=True)
        for name, value in (
            ("batch", batch),
            ("length", length),
            ("seconds", seconds),
            ("missing", int(np.sum(~here))),
            ("implausible", int(np.sum(falls))),
            ("spread", _pooled_spread(np.log(seconds), point.ravel())),
            ("_tokens", tokens.astype(np.float64)),
            ("_times", times),
            ("_points", _medians(shapes, point.ravel(), seconds)),
        ):
            object.__setattr__(self, name, value)

    @staticmethod
    def plausible(tokens: IntArray, seconds: FloatArray) -> BoolArray:
        """Whether runs with fewer tokens did not take over 1.25 times as long, shape (R,)."""
        distinct, times = _by_tokens(tokens, seconds)
        highest = np.maximum.accumulate(times)
        return ~np.isin(tokens, distinct[highest > _FALL * times])

    def at(self, batch: npt.ArrayLike, length: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
        """Return seconds and their label's index in `LABELS`, both shape (Q,).

        A shape that was measured has the median of its runs. Others are piecewise linear in
        tokens = batch·length through the median of the runs with equally many tokens; below the
        fewest measured tokens, time does not fall further.

        Raises
        ------
        FieldError
            If a query has more tokens than any measured point.
        """
        rows = integers("batch", batch, minimum=1)
        lengths = integers("length", length, rows.shape, minimum=1)
        tokens = (rows * lengths).astype(np.float64)
        if tokens.size and np.max(tokens) > self._tokens[-1]:
            worst = int(np.argmax(tokens))
            raise FieldError(
                f"{int(tokens[worst])} tokens (batch {rows[worst]}, length {lengths[worst]})",
                where=self.source,
                expected=f"at most the {int(self._tokens[-1])} tokens that were measured",
                hint="Leave longer requests out, or choose a profile that reaches further",
            )
        label = np.where(lengths > np.max(self.length), LENGTH_EXTRAPOLATED, INTERPOLATED)
        pairs = zip(rows.tolist(), lengths.tolist(), strict=True)
        own = np.array([self._points.get(pair, np.nan) for pair in pairs])
        label[~np.isnan(own)] = MEASURED
        between = np.interp(tokens, self._tokens, self._times)
        return np.where(np.isnan(own), between, own), label.astype(np.int64)

    def draw(self, seconds: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Spread seconds as the repeats do, log-normal around the median; as they are without."""
        if self.spread is None:
            return seconds
        return np.asarray(seconds * np.exp(rng.normal(0.0, self.spread, seconds.shape)))


def _by_tokens(tokens: IntArray, seconds: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return distinct token counts, ascending, and the median time at each."""
    distinct, group = np.unique(tokens, return_inverse=True)
    medians = [float(np.median(seconds[group == g])) for g in range(distinct.size)]
    return distinct, np.array(medians)


def _medians(
    shapes: IntArray, point: IntArray, seconds: FloatArray
) -> dict[tuple[int, int], float]:
    """Return the median time of every measured (batch, length)."""
    return {
        (int(shape[0]), int(shape[1])): float(np.median(seconds[point == i]))
        for i, shape in enumerate(shapes)
    }


def _pooled_spread(logs: FloatArray, point: IntArray) -> float | None:
    counts = np.bincount(point)
    means = np.bincount(point, logs) / counts
    freedom = int(np.sum(counts - 1))
    if np.sum(counts > 1) < _MIN_REPEATED_POINTS:
        return None
    return float(np.sqrt(np.sum((logs - means[point]) ** 2) / freedom))
