"""What the levels of an objective charge, and the bounds and deadlines that follow at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.grid import ticks_down, ticks_up
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective


def last_end(done: IntArray) -> int:
    """Return the last of some ends, 0 for none."""
    return int(done.max(initial=0))


@dataclass(frozen=True)
class Weights:
    """What one level of the objective charges; all parts count in ticks or tasks.

    Parameters
    ----------
    done : ndarray, shape (T,)
        Seconds per tick of a task's end.
    late : ndarray, shape (T,)
        Seconds for ending after `due`.
    due : ndarray of int, shape (T,)
        Last tick at which a task is not late.
    makespan, node_time, idle : float
        Seconds per tick.
    constant_s : float
        Seconds added whatever happens: minus the weighted releases.
    """

    done: FloatArray
    late: FloatArray
    due: IntArray
    makespan: float
    node_time: float
    idle: float
    constant_s: float

    def coefficients(self) -> list[float]:
        """Return all prices; each is that of a whole number."""
        return [*self.done, *self.late, self.makespan, self.node_time, self.idle]

    def least_s(self, done: IntArray) -> float:
        """Return a lower bound in seconds when tasks end at the ticks `done` or later."""
        late = float(self.late @ (done > self.due))
        return self.constant_s + float(self.done @ done) + self.makespan * last_end(done) + late

    def deadlines(self, done: IntArray, most_s: float, horizon: int) -> IntArray:
        """Return ticks by which tasks end in every schedule of value `most_s` or less, shape (T,).

        All other tasks then end at `done` at the earliest.
        """
        spare = (most_s - self.least_s(done)) + 1e-9 * max(1.0, abs(most_s))
        limit = np.full(len(done), horizon, dtype=np.int64)
        for base, charged in ((done, self.done), (last_end(done), self.makespan)):
            price = np.broadcast_to(charged, limit.shape)
            room = np.full(limit.shape, inf)
            np.divide(spare, price, out=room, where=price > 0)
            whole = np.floor(np.minimum(room, float(horizon)) + 1e-6).astype(np.int64)
            limit = np.minimum(limit, base + whole)
        return limit


def weights(
    instance: Instance, objective: Objective, names: tuple[str, ...], *, bound: bool
) -> Weights:
    """Collect the prices of one level; `bound` rounds due times up instead of down."""
    work, tick = instance.workload, instance.tick_s
    charged = {
        name: objective.weights[name] if name in names else 0.0 for name in objective.weights
    }
    price = np.where(work.is_inference, charged["inference_response"], charged["training_response"])
    per_second = price * work.weight
    limited = work.is_inference & np.isfinite(work.slo_s)
    ticks = ticks_up if bound else ticks_down
    due = ticks(np.where(limited, work.release_s + np.where(limited, work.slo_s, 0.0), 0.0), tick)
    return Weights(
        per_second * tick,
        np.where(limited, charged["late"] * work.weight, 0.0),
        due,
        charged["makespan"] * tick,
        charged["node_time"] * tick,
        charged["idle"] * tick,
        -float(per_second @ work.release_s),
    )
