"""The problem as solvers see it: time counts from near the first release, weights are ordinary.

A float has few digits left for milliseconds once it counts seconds from an epoch, and integer
models have none for weights that differ by many powers of ten from one. So every solver and bound
works on a normal form: releases are shifted by an exact decimal, weights are scaled by powers of
two, and the answer is turned back.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.evaluation import objective_value
from lemix_opt.grid import noise_s
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.resolution import Resolution
from lemix_opt.result import Result, Value
from lemix_opt.schedule import BACKWARD, Schedule
from solvers.exact.readout import schedule_at
from solvers.incumbent import OnSolution, levels_of

ORDINARY = 20
"""Binary digits by which the largest weight may differ from one before it is scaled."""
_FIELDS = {"late": "late_penalty_s"}


@dataclass(frozen=True)
class NormalForm:
    """An instance and objective in normal form, and the way back.

    Parameters
    ----------
    given, given_objective
        The problem as it was stated.
    instance, objective
        The same problem from zero on, with ordinary weights.
    origin_s : Fraction
        Seconds that all releases were shifted by, exactly.
    digits : tuple of int
        Per level, binary digits that the objective was scaled up by.
    """

    given: Instance
    given_objective: Objective
    instance: Instance
    objective: Objective
    origin_s: Fraction
    digits: tuple[int, ...]

    @classmethod
    def of(cls, instance: Instance, objective: Objective) -> NormalForm:
        """Bring a problem into normal form.

        Raises
        ------
        FieldError
            If values of the objective would not be finite.
        """
        Resolution.of(instance, objective)
        origin = origin_s(instance)
        work, digits = instance.workload, _digits(float(instance.workload.weight.max(initial=0.0)))
        if origin:
            work = replace(work, release_s=_shifted(work.release_s, origin))
        if digits:
            work = replace(work, weight=np.ldexp(work.weight, digits))
        scaled, by_level = _scaled(objective, digits)
        if work is not instance.workload:
            instance, given = replace(instance, workload=work), instance
        else:
            given = instance
        return cls(given, objective, instance, scaled, origin, by_level)

    @property
    def unchanged(self) -> bool:
        """Whether the problem is in normal form as it stands."""
        return self.instance is self.given and self.objective == self.given_objective

    def initial(self, schedule: Schedule | None) -> Schedule | None:
        """Return a schedule of the given problem in normal form."""
        return schedule if schedule is None else self._moved(schedule, -self.origin_s)

    def schedule(self, schedule: Schedule) -> Schedule:
        """Return a schedule in normal form as one of the given problem."""
        return self._moved(schedule, self.origin_s)

    def seconds(self, value: float, level: int = 0) -> float:
        """Return a value or bound of a level as one of the given objective."""
        return math.ldexp(value, -self.digits[level]) + self._shift(level)

    def normal_seconds(self, value: float, level: int = 0) -> float:
        """Return a value of a level of the given objective in normal form."""
        return math.ldexp(value - self._shift(level), self.digits[level])

    def _shift(self, level: int) -> float:
        if "makespan" not in self.given_objective.levels[level]:
            return 0.0
        return self.given_objective.makespan * float(self.origin_s)

    def listener(self, on_solution: OnSolution | None) -> OnSolution | None:
        """Return what passes solutions on as those of the given problem."""
        if on_solution is None or self.unchanged:
            return on_solution

        def passed_on(schedule: Schedule, value: Value) -> None:
            own = self.schedule(schedule)
            on_solution(own, objective_value(self.given, own, self.given_objective))

        return passed_on

    def result(self, found: Result, initial: Schedule | None) -> Result:
        """Return a result as one of the given problem.

        Parameters
        ----------
        initial : Schedule, optional
            The one that `initial` returned, which is handed back as it was given.
        """
        if self.unchanged:
            return found
        schedule = found.schedule
        if schedule is not None:
            schedule = self.schedule(schedule) if initial is None else initial
        value = None
        if schedule is not None:
            value = objective_value(self.given, schedule, self.given_objective)
        low: Value | None = None
        if found.lower_bound is not None:
            lows = [self.seconds(b, k) for k, b in enumerate(levels_of(found.lower_bound))]
            if value is not None:
                # Adding the origin may cost a bound its last bits.
                lows = [
                    min(b, v) if b - v <= self.noise(v) else b
                    for b, v in zip(lows, levels_of(value), strict=True)
                ]
            low = tuple(lows) if self.objective.lexicographic else lows[0]
        gap = found.rounding_gap
        return replace(
            found,
            schedule=schedule,
            objective=value,
            lower_bound=low,
            trajectory=tuple(
                (s, None if u is None else self.seconds(u), None if b is None else self.seconds(b))
                for s, u, b in found.trajectory
            ),
            rounding_gap=None if gap is None else math.ldexp(gap, -self.digits[0]),
        )

    def noise(self, value: float) -> float:
        """Return what turning a value back may cost it."""
        return 4 * math.ulp(abs(value)) + float(np.spacing(float(self.origin_s)))

    def _moved(self, schedule: Schedule, by: Fraction) -> Schedule:
        if not by:
            return schedule
        to = self.given if by > 0 else self.instance
        rows = schedule.operations
        # Times a hair before zero are noise of the shift.
        start = np.maximum(rows.start_s + float(by), 0.0)
        if not to.beyond_exact_model and schedule.complete:
            own = rows.phase <= BACKWARD
            keys = np.column_stack([rows.task, rows.phase, rows.stage])[own]
            return schedule_at(to, schedule.node, keys, start[own])
        end = np.maximum(rows.end_s + float(by), start)
        release = np.maximum(schedule.release_s + float(by), to.workload.release_s)
        return replace(
            schedule, operations=replace(rows, start_s=start, end_s=end), release_s=release
        )


def origin_s(instance: Instance) -> Fraction:
    """Return the time near the first release that solvers count from.

    It leaves as many releases as possible on the grid: whole ticks where most releases are whole
    ticks, else a fraction that most releases share.
    """
    release_s, tick = instance.workload.release_s, _decimal(instance.tick_s)
    if release_s.size == 0:
        return Fraction(0)
    noise = Fraction(noise_s(instance.tick_s))
    exact = [_decimal(r) for r in release_s.tolist()]
    rests: Counter[Fraction] = Counter()
    for time in exact:
        rest = time % tick
        rests[Fraction(0) if min(rest, tick - rest) <= noise else rest] += 1
    rest = min(rests, key=lambda r: (-rests[r], r))
    first = min(exact)
    whole = (first + noise - rest) // tick
    # A release that lacks the shared fraction may come first.
    return max(whole * tick + rest, Fraction(0)) if whole >= 0 else Fraction(0)


def _decimal(seconds: float) -> Fraction:
    """Return the shortest decimal that a float stands for."""
    return Fraction(repr(float(seconds)))


def _shifted(release_s: FloatArray, origin: Fraction) -> FloatArray:
    return np.array([max(float(_decimal(r) - origin), 0.0) for r in release_s.tolist()])


def _digits(largest: float) -> int:
    """Return the binary digits that bring a number to around one; 0 where it is ordinary."""
    if largest <= 0:
        return 0
    exponent = math.frexp(largest)[1]
    return 0 if abs(exponent) <= ORDINARY else -exponent


def _scaled(objective: Objective, task_digits: int) -> tuple[Objective, tuple[int, ...]]:
    """Scale an objective whose responses and lateness count weights scaled by `task_digits`."""
    weights, by_level = {}, []
    for names in objective.levels:
        # Exponents of the coefficients, which may lie outside the range of floats themselves.
        each = {
            name: 0 if name in ("makespan", "idle", "node_time") else task_digits for name in names
        }
        exponent = max(math.frexp(objective.weights[n])[1] - each[n] for n in names)
        digits = 0 if abs(exponent) <= ORDINARY else -exponent
        by_level.append(digits)
        for name in names:
            scaled = math.ldexp(objective.weights[name], digits - each[name])
            # What vanishes beside the other terms keeps the term alive.
            weights[_FIELDS.get(name, name)] = max(scaled, 1e-300)
    return Objective(**weights, lexicographic=objective.lexicographic), tuple(by_level)
