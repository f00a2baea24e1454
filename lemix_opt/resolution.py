"""How finely values of an objective are compared: one rule for zero, tiny and huge ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective

PROOF_TOLERANCE = 1e-6
"""Relative distance of objective and bound below which a result counts as optimal; around zero the
same part of what one tick costs."""
FLOAT_NOISE = 1e-13
"""Error of sums of floats, relative to the largest value that a sum may take."""


@dataclass(frozen=True)
class Resolution:
    """Smallest differences that count, per level of an objective.

    Two values that are the same number of units are equal, whatever their last bits say.

    Parameters
    ----------
    unit : tuple of float
        Per level, in seconds of the objective: `PROOF_TOLERANCE` of what one tick costs at the
        level's smallest weight, or the noise of the level's sums where that is more.

    Examples
    --------
    >>> resolution = Resolution((1e-9,))
    >>> resolution.better((0.0,), (8.7e-18,)), resolution.gap(8.7e-18, 0.0)
    (False, 0.0)
    >>> round(resolution.gap(1.25, 1.0), 3)
    0.2
    """

    unit: tuple[float, ...]

    @classmethod
    def of(cls, instance: Instance, objective: Objective) -> Resolution:
        """Return the resolution of an objective on an instance.

        Raises
        ------
        FieldError
            If values of the objective would not be finite.
        """
        units = []
        for names in objective.levels:
            smallest, largest = _range(instance, objective, names)
            if not np.isfinite(largest):
                raise FieldError(
                    f"the value of {' + '.join(names)} is not finite",
                    where="Objective",
                    expected="smaller weights of objective and tasks",
                )
            # The smallest number keeps units of vanishing weights above zero.
            units.append(max(PROOF_TOLERANCE * smallest, FLOAT_NOISE * largest, 5e-324))
        return cls(tuple(units))

    def whole(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return values in whole units, level by level; infinity stays."""
        return tuple(
            float(np.rint(value / unit)) if np.isfinite(value) else value
            for value, unit in zip(values, self.unit, strict=True)
        )

    def better(self, values: tuple[float, ...], than: tuple[float, ...]) -> bool:
        """Whether values are lexicographically less than others by a unit or more."""
        return self.whole(values) < self.whole(than)

    def gap(self, value: float, bound: float, level: int = 0) -> float:
        """Return (value − bound) / |value|; 0 where both are closer than a unit of the level."""
        distance = value - bound
        if distance == 0 or abs(distance) <= self.unit[level]:
            return 0.0
        return distance / max(abs(value), self.unit[level])

    def proven(self, value: float, bound: float, level: int = 0) -> bool:
        """Whether a value is optimal by its bound: their gap is at most `PROOF_TOLERANCE`."""
        return self.gap(value, bound, level) <= PROOF_TOLERANCE


def _range(instance: Instance, objective: Objective, names: tuple[str, ...]) -> tuple[float, float]:
    """Return the cost of one tick, or late task, at the smallest weight, and the largest value."""
    work, cluster = instance.workload, instance.cluster
    span_s = _span_s(instance)
    smallest, largest = [], 0.0
    with np.errstate(over="ignore"):
        for name in names:
            if name in ("inference_response", "late"):
                weights = work.weight[work.is_inference]
            elif name == "training_response":
                weights = work.weight[work.is_training]
            else:
                weights = np.ones(cluster.nodes * (cluster.stages if name == "idle" else 1))
            costs = objective.weights[name] * weights[weights > 0]
            step_s, most_s = (1.0, 1.0) if name == "late" else (instance.tick_s, span_s)
            smallest.append(float(costs.min(initial=objective.weights[name])) * step_s)
            largest += float(costs.sum()) * most_s
    return min(smallest), largest


def _span_s(instance: Instance) -> float:
    """Return seconds by which every sensible schedule is over, at least one tick."""
    costs, work = instance.costs, instance.workload
    busy = costs.forward_s + np.where(work.is_training[None, :, None], costs.backward_s, 0.0)
    each = busy.sum(axis=2) + 2 * costs.hop_s.sum(axis=2)
    each = each + np.where(work.is_training, costs.closing_s.sum(axis=1)[:, None], 0.0)
    last = float(np.max(work.release_s, initial=0.0))
    return max(last + float(each.max(axis=0, initial=0.0).sum()), instance.tick_s)
