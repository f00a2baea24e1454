"""What the levels of an objective charge, and the bounds and deadlines that follow at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from solvers.milp.rounding import due_ticks, ticks


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

    def deadlines(self, done: IntArray, most_s: float, horizon: int, loads: Loads) -> IntArray:
        """Return ticks by which tasks end in some best schedule, shape (T,).

        Parameters
        ----------
        done : ndarray of int, shape (T,)
            Earliest ends.
        most_s : float
            Value of a known schedule.
        horizon : int
            Tick by which some best schedule has ended in any case.
        loads : Loads
            Work and releases.
        """
        spare = (most_s - self.least_s(done)) + 1e-9 * max(1.0, abs(most_s))
        limit = np.full(len(done), horizon, dtype=np.int64)
        # At every tick behind the last release some node is in use, or all the rest could start
        # a tick earlier at no loss. So the last end is limited where node time is.
        stages = loads.stages
        idle = spare + self.idle * loads.busy
        in_use = ((self.node_time, spare), (stages * self.idle, idle))
        limits: list[tuple[IntArray | int, FloatArray | float, float]] = [
            (loads.last_release, price, left) for price, left in in_use
        ]
        limits += [(done, self.done, spare), (last_end(done), self.makespan, spare)]
        for base, charged, left in limits:
            price = np.broadcast_to(charged, limit.shape)
            room = np.full(limit.shape, inf)
            np.divide(left, price, out=room, where=price > 0)
            whole = np.floor(np.minimum(room, float(horizon)) + 1e-6).astype(np.int64)
            limit = np.minimum(limit, base + whole)
        return limit


@dataclass(frozen=True)
class Loads:
    """Work of an instance in ticks.

    Parameters
    ----------
    stages : int
        GPUs per node.
    by_node : ndarray of int, shape (T, N)
        GPU ticks of a task, as they count against `idle`.
    last_release : int
        Last own release.
    """

    stages: int
    by_node: IntArray
    last_release: int

    @property
    def busy(self) -> int:
        """Most GPU ticks that all tasks can take."""
        return int(self.by_node.max(axis=1, initial=0).sum())


def loads(instance: Instance, last_release: int, *, bound: bool) -> Loads:
    """Count the work; a bound rounds it up, so that idle is never overrated."""
    costs, tick, training = instance.costs, instance.tick_s, instance.workload.is_training
    forward, backward, closing = (
        ticks(times, tick, up=bound)
        for times in (
            costs.forward_s,
            costs.backward_s * training[:, None],
            costs.closing_s,
        )
    )
    busy = forward.sum(2) + backward.sum(2) + closing.sum(1)[:, None] * training
    return Loads(instance.cluster.stages, busy[instance.cluster.node_class].T, last_release)


def weights(instance: Instance, objective: Objective, names: tuple[str, ...]) -> Weights:
    """Collect the prices of one level."""
    work, tick = instance.workload, instance.tick_s
    charged = {
        name: objective.weights[name] if name in names else 0.0 for name in objective.weights
    }
    price = np.where(work.is_inference, charged["inference_response"], charged["training_response"])
    per_second = price * work.weight
    limited = work.is_inference & np.isfinite(work.slo_s)
    return Weights(
        per_second * tick,
        np.where(limited, charged["late"] * work.weight, 0.0),
        due_ticks(instance),
        charged["makespan"] * tick,
        charged["node_time"] * tick,
        charged["idle"] * tick,
        -float(per_second @ work.release_s),
    )
