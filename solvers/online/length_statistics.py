"""Running mean and deviation of the task lengths a node has received (Welford)."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np


class LengthStatistics:
    """Count, mean and population deviation of lengths in tokens."""

    __slots__ = ("count", "mean", "squares")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0

    def add(self, tokens: float) -> None:
        """Take in one more length."""
        self.count += 1
        delta = tokens - self.mean
        self.mean += delta / self.count
        self.squares += delta * (tokens - self.mean)

    @property
    def std(self) -> float:
        """Deviation, 0 for fewer than two lengths."""
        return sqrt(self.squares / self.count) if self.count > 1 else 0.0

    def density(self, tokens: float) -> float:
        """Return the normal density in 1/token (LeMix's LC term); 0 without deviation."""
        std = self.std
        if self.count == 0 or std == 0:
            return 0.0
        z = (tokens - self.mean) / std
        return (1 / (std * sqrt(2 * pi))) * float(np.exp(-0.5 * z**2))
