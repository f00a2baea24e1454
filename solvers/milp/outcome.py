"""What a run has found so far, and the result that follows."""

from __future__ import annotations

import time
from typing import Any

from lemix_opt.result import PROOF_TOLERANCE, Result, Value, relative_gap
from lemix_opt.schedule import Schedule

NOISE_S = 1e-9
"""Seconds by which objective and bound may differ through rounding errors of sums."""


class Outcome:
    """Best schedule and notes of a run that began with it.

    Parameters
    ----------
    lexicographic : bool
        Whether values have levels.
    """

    def __init__(self, lexicographic: bool) -> None:
        self.begin = time.perf_counter()
        self.lexicographic = lexicographic
        self.best: Schedule | None = None
        self.value: Value | None = None
        self.note = ""
        self.impossible = False
        self.schedule_proven = False
        self._trajectory: list[tuple[float, float | None, float | None]] = []

    @property
    def levels(self) -> tuple[float, ...]:
        """Values of the best schedule by level; empty without one."""
        if self.value is None:
            return ()
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def offer(self, schedule: Schedule, value: Value) -> None:
        """Keep a schedule if it is better than all before."""
        if self.value is None or value < self.value:  # type: ignore[operator]
            self.best, self.value = schedule, value
            upper = value if isinstance(value, float) else None
            self._trajectory.append((time.perf_counter() - self.begin, upper, None))

    def no_schedule(self, *, exact: bool, bound: bool) -> None:
        """Note that a model has no solution as good as the best schedule, or none at all."""
        if self.best is not None and (exact or bound):
            self.note = "HiGHS found no solution where one is known; do not trust this run"
        elif self.best is not None:
            # The model that is rounded up holds nothing better than what is known.
            self.schedule_proven = True
        else:
            self.impossible = exact or bound
            self.note = "no schedule exists"
            if not self.impossible:
                self.note = "rounding to ticks and MiB leaves no schedule; use a shorter tick"

    def result(
        self, bounds: list[float | None], exact: bool, seed: int, parameters: dict[str, Any]
    ) -> Result:
        """Put together what is known.

        Parameters
        ----------
        bounds : list of float or None
            Proven bounds by level, in seconds.
        exact : bool
            Whether the instance lies on the time grid.
        """
        values = self.levels
        floor = [b if b is None or not values else min(b, values[k]) for k, b in enumerate(bounds)]
        gaps = [_gap(value, low) for value, low in zip(values, floor, strict=False)]
        proven = [gap is not None and gap <= PROOF_TOLERANCE for gap in gaps]
        status = "infeasible" if self.impossible else "unknown"
        if values:
            status = "optimal" if all(proven) else "feasible"
        lower: Value | None = floor[0]
        if self.lexicographic and floor[0] is not None:
            lower = tuple(float("-inf") if b is None else b for b in floor)
        runtime = time.perf_counter() - self.begin
        if isinstance(self.value, float) and isinstance(lower, float):
            self._trajectory.append((runtime, self.value, lower))
        rounding = None
        if not exact and self.schedule_proven and values and floor[0] is not None:
            rounding = values[0] - floor[0]
        names = tuple("optimal" if known else "feasible" for known in proven)
        return Result(
            status=status,
            schedule=self.best,
            objective=self.value,
            lower_bound=lower,
            gap=next((g for g, known in zip(gaps, proven, strict=True) if not known), 0.0)
            if values
            else None,
            trajectory=tuple(self._trajectory),
            runtime_s=runtime,
            solver="milp",
            seed=seed,
            parameters=parameters,
            explanation="" if status == "optimal" else self.note,
            rounding_gap=rounding,
            level_status=names if self.lexicographic else (),
        )


def _gap(value: float, low: float | None) -> float | None:
    if low is None:
        return None
    return 0.0 if value - low <= NOISE_S else relative_gap(value, low)
