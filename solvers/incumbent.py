"""The best schedule of a run so far, what bounds it, and the result that comes of both."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from lemix_opt.evaluation import objective_value
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.resolution import Resolution
from lemix_opt.result import Result, Value
from lemix_opt.schedule import Schedule

OnSolution = Callable[[Schedule, Value], None]


def levels_of(value: Value) -> tuple[float, ...]:
    """Return a value level by level."""
    return value if isinstance(value, tuple) else (value,)


class Incumbent:
    """Keeps the best schedule and the best lower bound of a run; threads may share it.

    Parameters
    ----------
    instance, objective
        What is solved; weighted or lexicographic.
    on_solution : callable, optional
        Called with every better schedule and its value.
    """

    def __init__(
        self, instance: Instance, objective: Objective, on_solution: OnSolution | None = None
    ) -> None:
        self.begin = time.perf_counter()
        self.instance, self.objective, self.on_solution = instance, objective, on_solution
        self.resolution = Resolution.of(instance, objective)
        self.schedule: Schedule | None = None
        self.value: Value | None = None
        self.bounds: list[float | None] = [None] * len(objective.levels)
        self.lock = threading.RLock()
        self.trajectory: list[tuple[float, float | None, float | None]] = []

    @property
    def elapsed_s(self) -> float:
        """Wall seconds since the run began."""
        return time.perf_counter() - self.begin

    @property
    def values(self) -> tuple[float, ...]:
        """Values of the best schedule by level; empty without one."""
        return () if self.value is None else levels_of(self.value)

    @property
    def lower_bound(self) -> float | None:
        """Bound of the first level."""
        return self.bounds[0]

    @property
    def first_value(self) -> float:
        """Value of the first level, infinity while there is no schedule."""
        return self.values[0] if self.values else math.inf

    @property
    def proven(self) -> bool:
        """Whether nothing is left to do: one level, and bound and value agree."""
        if self.lower_bound is None or not isinstance(self.value, float):
            return False
        return self.resolution.proven(self.value, self.lower_bound)

    def offer(self, schedule: Schedule) -> bool:
        """Keep a schedule if it is complete and better than all before; say whether it was."""
        value = objective_value(self.instance, schedule, self.objective)
        values = levels_of(value)
        with self.lock:
            better = not self.values or self.resolution.better(values, self.values)
            if not better or not math.isfinite(values[0]):
                return False
            self.schedule, self.value = schedule, value
            self._note()
            if self.on_solution is not None:
                self.on_solution(schedule, value)
        return True

    def raise_bound(self, seconds: float | None, level: int = 0) -> None:
        """Keep a lower bound of a level if it is higher than all before."""
        if seconds is None or not math.isfinite(seconds):
            return
        with self.lock:
            known = self.bounds[level]
            if known is None or seconds > known:
                self.bounds[level] = seconds
                self._note()

    def _note(self) -> None:
        if isinstance(self.value, float):
            low = None if self.lower_bound is None else min(self.lower_bound, self.value)
            self.trajectory.append((self.elapsed_s, self.value, low))

    def result(
        self,
        solver: str,
        seed: int,
        parameters: dict[str, Any],
        explanation: str = "",
        *,
        impossible: bool = False,
        rounding: bool = False,
    ) -> Result:
        """Compare what was found with what was proven, level by level.

        Parameters
        ----------
        explanation : str
            Why there is no proof, where there is none.
        impossible : bool, default False
            Whether it is proven that no schedule exists.
        rounding : bool, default False
            Whether the schedule is proven best on a grid the instance does not lie on, so that the
            whole gap is due to rounding.
        """
        values, floor = self.values, list(self.bounds)
        if values:
            # Bounds in floating point may exceed the value by its last bits, but by no more.
            floor = [
                v if b is not None and self.resolution.gap(v, b, depth) == 0.0 else b
                for depth, (b, v) in enumerate(zip(floor, values, strict=True))
            ]
        states: list[str] = []
        gap = None
        for depth, (own, low) in enumerate(zip(values, floor, strict=False)):
            if "feasible" not in states:
                gap = None if low is None else self.resolution.gap(own, low, depth)
            proven = low is not None and self.resolution.proven(own, low, depth)
            states.append("optimal" if proven else "feasible")
        status = "infeasible" if impossible else "unknown"
        if values:
            status = "optimal" if all(state == "optimal" for state in states) else "feasible"
        first = floor[0]
        lower: Value | None = first
        if self.objective.lexicographic and first is not None:
            lower = tuple(-math.inf if b is None else b for b in floor)
        if rounding and status == "feasible":
            grid = f"best on the grid of {self.instance.tick_s:g} s; what is left is rounding"
            explanation = "; ".join(filter(None, (grid, explanation)))
        self._note()
        return Result(
            status=status,
            schedule=self.schedule,
            objective=self.value,
            lower_bound=lower,
            gap=gap,
            trajectory=tuple(self.trajectory),
            runtime_s=self.elapsed_s,
            solver=solver,
            seed=seed,
            parameters=parameters,
            explanation="" if status == "optimal" else explanation,
            rounding_gap=values[0] - first if rounding and values and first is not None else None,
            level_status=tuple(states) if self.objective.lexicographic else (),
        )
