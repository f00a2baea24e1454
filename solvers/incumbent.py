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
        self.lower_bound: float | None = None
        self.lock = threading.RLock()
        self.trajectory: list[tuple[float, float | None, float | None]] = []

    @property
    def elapsed_s(self) -> float:
        """Wall seconds since the run began."""
        return time.perf_counter() - self.begin

    @property
    def first_value(self) -> float:
        """Value of the first level, infinity while there is no schedule."""
        if self.value is None:
            return math.inf
        return self.value[0] if isinstance(self.value, tuple) else self.value

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

    def raise_bound(self, seconds: float | None) -> None:
        """Keep a lower bound of the first level if it is higher than all before."""
        if seconds is None or not math.isfinite(seconds):
            return
        with self.lock:
            if self.lower_bound is None or seconds > self.lower_bound:
                self.lower_bound = seconds
                self._note()

    def _note(self) -> None:
        if isinstance(self.value, float):
            low = None if self.lower_bound is None else min(self.lower_bound, self.value)
            self.trajectory.append((self.elapsed_s, self.value, low))

    def result(
        self, solver: str, seed: int, parameters: dict[str, Any], explanation: str = ""
    ) -> Result:
        """Return what is known; of several levels only the first one is bounded."""
        levels = isinstance(self.value, tuple)
        low = self.lower_bound
        if low is not None and self.value is not None:
            # Sums of floats differ in the last bits.
            low = min(low, self.first_value)
        gap = None if low is None or self.value is None else relative_gap(self.first_value, low)
        status = "unknown" if self.value is None else "feasible"
        if self.proven:
            status = "optimal"
        bound: Value | None = low
        states: tuple[str, ...] = ()
        if isinstance(self.value, tuple):
            rest = len(self.value) - 1
            bound = None if low is None else (low, *[-math.inf] * rest)
            first = "optimal" if gap is not None and gap <= PROOF_TOLERANCE else "feasible"
            states = (first, *["feasible"] * rest)
        return Result(
            status=status,
            schedule=self.schedule,
            objective=self.value,
            lower_bound=bound,
            gap=gap,
            trajectory=tuple(self.trajectory),
            runtime_s=self.elapsed_s,
            solver=solver,
            seed=seed,
            parameters=parameters,
            explanation="" if status == "optimal" else explanation,
            level_status=states if levels else (),
        )
