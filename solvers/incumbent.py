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
from lemix_opt.result import PROOF_TOLERANCE, Result, Value, relative_gap
from lemix_opt.schedule import Schedule

OnSolution = Callable[[Schedule, Value], None]


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
        if self.value is None:
            return ()
        return self.value if isinstance(self.value, tuple) else (self.value,)

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
        return relative_gap(self.value, self.lower_bound) <= PROOF_TOLERANCE

    def offer(self, schedule: Schedule) -> bool:
        """Keep a schedule if it is complete and better than all before; say whether it was."""
        value = objective_value(self.instance, schedule, self.objective)
        first = value[0] if isinstance(value, tuple) else value
        with self.lock:
            better = self.value is None or value < self.value  # type: ignore[operator]
            if not better or not math.isfinite(first):
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
            # Bounds in floating point may exceed the value by its last bits.
            floor = [None if b is None else min(b, v) for b, v in zip(floor, values, strict=True)]
        states, gap = [], None
        for own, low in zip(values, floor, strict=False):
            level_gap = None if low is None else relative_gap(own, low)
            proven = level_gap is not None and level_gap <= PROOF_TOLERANCE
            states.append("optimal" if proven else "feasible")
            if gap is None or gap <= PROOF_TOLERANCE:
                gap = level_gap
        status = "infeasible" if impossible else "unknown"
        if values:
            status = "optimal" if all(state == "optimal" for state in states) else "feasible"
        first = floor[0]
        lower: Value | None = first
        if self.objective.lexicographic and first is not None:
            lower = tuple(-math.inf if b is None else b for b in floor)
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
