"""Predictions corrected by executions as they end."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import exp, log

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray, floats

Group = tuple[Hashable, ...]


@dataclass
class OnlineCorrection:
    """Factors that predictions are multiplied by, learned from executions; 1 before the first one.

    A group is a path from wide to narrow, such as ``("h100", "backward", 2)``. Every prefix of it,
    the empty one included, has a level and a slope in the log of the predicted seconds; the log
    of measured over predicted is their sum over the path, seen through noise. So groups that
    have not run yet lean on those that share a prefix, and what bends with size is followed. All
    levels and slopes are one Gaussian state that drifts, a Kalman filter (dynamic regression, West
    and Harrison 1997, chapter 9). One outlier moves it by at most three standard deviations of what
    was expected, and slopes do not count beyond the sizes that a group was seen at.

    Parameters
    ----------
    prior_std : float, default 0.15
        Spread of every prefix's level before the first execution, in log seconds: relative error
        of predictions from group to group.
    slope_std : float, default 0.05
        Spread of slopes, per unit of log seconds.
    noise_std : float, default 0.1
        Spread of one execution around its group.
    drift_std : float, default 0.003
        How far the levels of a path move together from one of its executions to the next; forgets
        the old ones.

    Notes
    -----
    The defaults were chosen on tables that are not among those whose errors are reported: training
    steps by GPU left out and iterations by width left out (`docs/predictors.md`).
    """

    prior_std: float = 0.15
    slope_std: float = 0.05
    noise_std: float = 0.1
    drift_std: float = 0.003
    _place: dict[Group, int] = field(default_factory=dict, repr=False)
    _seen: dict[Group, tuple[float, float]] = field(default_factory=dict, repr=False)
    _mean: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    _covariance: FloatArray = field(default_factory=lambda: np.zeros((0, 0)), repr=False)
    _middle: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        floats("prior_std", self.prior_std, (), minimum=0)
        floats("slope_std", self.slope_std, (), minimum=0)
        floats("noise_std", self.noise_std, (), above=0)
        floats("drift_std", self.drift_std, (), minimum=0)

    def fresh(self) -> OnlineCorrection:
        """Return one of the same settings that has seen nothing."""
        return OnlineCorrection(self.prior_std, self.slope_std, self.noise_std, self.drift_std)

    def observe(self, group: Group, predicted_s: float, measured_s: float) -> None:
        """Take in one execution.

        Parameters
        ----------
        group : tuple
            What shares factors, from wide to narrow.
        predicted_s : float
            Seconds as predicted before any correction.
        measured_s : float
            Seconds it took.

        Raises
        ------
        FieldError
            If a time is not positive and finite.
        """
        floats("predicted_s, measured_s", [predicted_s, measured_s], above=0)
        size = log(predicted_s)
        if not self._place:
            self._middle = size
        levels = self._levels(group)
        low, high = self._seen.get(group, (size, size))
        self._seen[group] = min(low, size), max(high, size)
        at = np.concatenate([levels, levels + 1])
        row = np.repeat([1.0, size - self._middle], len(levels))
        self._covariance[levels, levels] += self.drift_std**2 / len(levels)
        shared = self._covariance[:, at] @ row
        expected = float(row @ shared[at]) + self.noise_std**2
        surprise = log(measured_s / predicted_s) - float(row @ self._mean[at])
        limit = 3 * expected**0.5
        self._mean += shared / expected * min(max(surprise, -limit), limit)
        self._covariance -= np.outer(shared, shared) / expected

    def _levels(self, group: Group) -> IntArray:
        """Return where the levels of all prefixes stand, each before its slope; new ones begin."""
        prefixes = [group[:length] for length in range(len(group) + 1)]
        new = [prefix for prefix in prefixes if prefix not in self._place]
        if new:
            known = self._mean.size
            for number, prefix in enumerate(new):
                self._place[prefix] = known + 2 * number
            self._mean = np.concatenate([self._mean, np.zeros(2 * len(new))])
            variances = np.tile([self.prior_std**2, self.slope_std**2], len(new))
            grown = np.diag(np.concatenate([np.zeros(known), variances]))
            grown[:known, :known] = self._covariance
            self._covariance = grown
        return np.array([self._place[prefix] for prefix in prefixes])

    def _known(self, group: Group) -> IntArray:
        places = (self._place.get(group[:length]) for length in range(len(group) + 1))
        return np.array([at for at in places if at is not None], dtype=np.int64)

    def correct(self, group: Group, predicted_s: npt.ArrayLike) -> FloatArray:
        """Return predictions times the group's factors, of the same shape; 0 stays 0."""
        told = np.asarray(predicted_s, dtype=np.float64)
        at = self._known(group)
        if not at.size:
            return told.copy()
        level, slope = float(self._mean[at].sum()), float(self._mean[at + 1].sum())
        return np.asarray(told * np.exp(level + slope * self._sizes(group, told)))

    def _sizes(self, group: Group, told: FloatArray) -> FloatArray:
        """Return logs of predictions about the middle, within the sizes that were seen."""
        low, high = self._seen.get(group, (self._middle, self._middle))
        sizes = np.log(np.where(told > 0, told, exp(low)))
        return np.asarray(np.clip(sizes, low, high) - self._middle)

    def std(self, group: Group, predicted_s: float) -> float:
        """Return the relative uncertainty of the factor of a prediction, noise apart."""
        at = self._known(group)
        unknown = (len(group) + 1 - at.size) * self.prior_std**2
        size = float(self._sizes(group, np.asarray(predicted_s, dtype=np.float64)))
        row = np.repeat([1.0, size], at.size)
        at = np.concatenate([at, at + 1])
        return float((row @ self._covariance[np.ix_(at, at)] @ row + unknown) ** 0.5)
