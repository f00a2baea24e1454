"""Predictions corrected by executions as they end."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, floats


@dataclass
class OnlineCorrection:
    """A factor per group of operations, learned from executions; 1 before the first one.

    The log of measured over predicted time of a group is a level that drifts, seen through noise:
    a Kalman filter of one state per group (local level model, Harvey 1989, section 2.3). One
    outlier moves it by at most three standard deviations of what was expected.

    Parameters
    ----------
    prior_std : float, default 0.3
        Spread of the level before the first execution, in log seconds: relative error of the
        predictions from group to group.
    noise_std : float, default 0.1
        Spread of one execution around its group's level.
    drift_std : float, default 0.01
        How far a level moves from one execution to the next; forgets the old ones.
    """

    prior_std: float = 0.3
    noise_std: float = 0.1
    drift_std: float = 0.01
    _level: dict[Hashable, tuple[float, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        floats("prior_std", self.prior_std, (), minimum=0)
        floats("noise_std", self.noise_std, (), above=0)
        floats("drift_std", self.drift_std, (), minimum=0)

    def observe(self, group: Hashable, predicted_s: float, measured_s: float) -> None:
        """Take in one execution.

        Parameters
        ----------
        group : hashable
            What shares a factor: operation, model and GPU type, for instance.
        predicted_s : float
            Seconds as predicted before any correction.
        measured_s : float
            Seconds it took.

        Raises
        ------
        FieldError
            If a time is not positive and finite.
        """
        seconds = floats("predicted_s, measured_s", [predicted_s, measured_s], above=0)
        mean, variance = self._level.get(group, (0.0, self.prior_std**2))
        variance += self.drift_std**2
        expected = variance + self.noise_std**2
        surprise = float(np.log(seconds[1] / seconds[0])) - mean
        limit = 3 * expected**0.5
        gain = variance / expected
        mean += gain * min(max(surprise, -limit), limit)
        self._level[group] = mean, (1 - gain) * variance

    def factor(self, group: Hashable) -> float:
        """Return what predictions of the group are multiplied by."""
        return float(np.exp(self._level.get(group, (0.0, 0.0))[0]))

    def std(self, group: Hashable) -> float:
        """Return the relative uncertainty of the factor."""
        return float(self._level.get(group, (0.0, self.prior_std**2))[1] ** 0.5)

    def correct(self, group: Hashable, predicted_s: npt.ArrayLike) -> FloatArray:
        """Return predictions times the group's factor, of the same shape."""
        return np.asarray(np.asarray(predicted_s, dtype=np.float64) * self.factor(group))
