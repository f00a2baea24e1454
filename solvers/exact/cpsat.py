"""`cpsat`: proven optima and bounds with OR-Tools CP-SAT."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from lemix_opt.evaluation import objective_value
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.result import PROOF_TOLERANCE, Result, Value, relative_gap
from lemix_opt.schedule import Schedule
from solvers.exact.data import TickData, tick_data
from solvers.exact.model import build
from solvers.exact.parts import Parts, chosen
from solvers.exact.readout import schedule_from
from solvers.exact.terms import Level, levels
from solvers.exact.variables import Model

OnSolution = Callable[[Schedule, Value], None]
_PROVEN = (cp_model.OPTIMAL, cp_model.FEASIBLE)


@dataclass(frozen=True)
class CpSat:
    """Exact solver.

    On the time grid one model gives schedule and bound. Off it the schedule comes from a model
    rounded to the safe side and the bound from a second one rounded the other way.

    Parameters
    ----------
    workers : int, default 1
        Threads of CP-SAT.
    """

    workers: int = 1
    parts: Parts = field(default_factory=Parts)

    def solve(
        self,
        instance: Instance,
        objective: Objective,
        *,
        time_limit_s: float = 60.0,
        deterministic_limit: float | None = None,
        seed: int = 0,
        initial: Schedule | None = None,
        on_solution: OnSolution | None = None,
    ) -> Result:
        """Solve an instance; never worse than `initial`, which must be feasible."""
        run = _Run(self, instance, objective, time_limit_s, deterministic_limit, seed, on_solution)
        if initial is not None:
            run.offer(initial)
        data = tick_data(instance, bound=False)
        bounds = run.descend(data, bound=False, share=1.0 if data.exact else 0.5)
        if not data.exact:
            bounds = run.descend(tick_data(instance, bound=True), bound=True, share=1.0)
        return run.result(bounds, data.exact)


class _Run:
    def __init__(
        self,
        solver: CpSat,
        instance: Instance,
        objective: Objective,
        time_limit_s: float,
        deterministic_limit: float | None,
        seed: int,
        on_solution: OnSolution | None,
    ) -> None:
        self.begin = time.perf_counter()
        self.solver, self.instance, self.objective = solver, instance, objective
        self.time_limit_s = time_limit_s
        self.deterministic_limit = deterministic_limit
        self.seed = seed
        self.on_solution = on_solution
        self.best: Schedule | None = None
        self.value: Value | None = None
        self.trajectory: list[tuple[float, float | None, float | None]] = []
        self.note = ""
        self.schedule_proven = False
        self.impossible = False

    def offer(self, schedule: Schedule) -> None:
        """Keep a schedule if it is better than all before."""
        value = objective_value(self.instance, schedule, self.objective)
        if self.value is None or value < self.value:  # type: ignore[operator]
            self.best, self.value = schedule, value
            upper = value if isinstance(value, float) else None
            self.trajectory.append((time.perf_counter() - self.begin, upper, None))
            if self.on_solution is not None:
                self.on_solution(schedule, value)

    def descend(self, data: TickData, *, bound: bool, share: float) -> list[float | None]:
        """Solve level after level; return the proven bounds in seconds, None where unknown."""
        model = build(self.instance, data, self.solver.parts)
        parts = levels(self.instance, model, self.objective, self.solver.parts, bound=bound)
        if self.best is not None:
            _hint(model, self.instance, self.best)
        deadline = self.begin + share * self.time_limit_s
        found: list[float | None] = [None] * len(parts)
        for depth, level in enumerate(parts):
            left = deadline - time.perf_counter()
            if left <= 0:
                self.note = "the time limit was reached"
                break
            cp_solver = self._cp_solver(left)
            status = self._search(cp_solver, model, level, bound)
            if status == cp_model.INFEASIBLE:
                self.impossible = data.exact or bound
                self.note = "no schedule exists"
                if not self.impossible:
                    self.note = "rounding to ticks and MiB leaves no schedule; use a shorter tick"
                break
            if status in _PROVEN or status == cp_model.UNKNOWN:
                proven = level.seconds(cp_solver.best_objective_bound)
                found[depth] = proven if math.isfinite(proven) else None
            if status != cp_model.OPTIMAL:
                self.note = "a limit was reached before the proof"
                break
            if bound or not level.whole:
                # A relaxed optimum may cut off the true one, so lower levels get no bound here.
                if len(parts) > 1:
                    self.note = "lower levels have no bound off the grid"
                break
            model.cp.add(level.expression <= round(cp_solver.objective_value))
        else:
            self.schedule_proven = self.schedule_proven or not bound
        return found

    def _cp_solver(self, left_s: float) -> cp_model.CpSolver:
        cp_solver = cp_model.CpSolver()
        cp_solver.parameters.max_time_in_seconds = left_s
        cp_solver.parameters.random_seed = self.seed % 2**31
        cp_solver.parameters.num_workers = self.solver.workers
        if self.deterministic_limit is not None:
            cp_solver.parameters.max_deterministic_time = self.deterministic_limit
        return cp_solver

    def _search(
        self, cp_solver: cp_model.CpSolver, model: Model, level: Level, bound: bool
    ) -> cp_model.CpSolverStatus:
        model.cp.minimize(level.expression)
        if bound:
            return cp_solver.solve(model.cp)
        return cp_solver.solve(model.cp, _Watch(self, model))

    def read(self, model: Model, value: Callable[[Any], int]) -> Schedule:
        """Turn a solution into seconds."""
        node = [next(n for n, literal in enumerate(row) if value(literal)) for row in model.on]
        starts = {key: value(variable) for key, variable in model.start.items()}
        return schedule_from(self.instance, np.array(node, dtype=np.int64), starts)

    def result(self, bounds: list[float | None], exact: bool) -> Result:
        """Put together what is known."""
        lexicographic = bool(self.objective.lexicographic)
        values: tuple[float, ...] = ()
        if self.value is not None:
            values = self.value if isinstance(self.value, tuple) else (self.value,)
        floor = [None if b is None or not values else min(b, v) for b, v in zip(bounds, values)]  # noqa: B905
        states, gap = [], None
        for value, low in zip(values, floor, strict=True):
            level_gap = None if low is None else relative_gap(value, low)
            states.append(
                "optimal" if level_gap is not None and level_gap <= PROOF_TOLERANCE else "feasible"
            )
            if gap is None or gap <= PROOF_TOLERANCE:
                gap = level_gap
        status = "unknown" if not values else "feasible"
        if states and all(state == "optimal" for state in states):
            status = "optimal"
        if not values and self.impossible:
            status = "infeasible"
        low_value: Value | None = None
        shown = floor if values else list(bounds)
        if lexicographic and shown and shown[0] is not None:
            low_value = tuple(float("-inf") if b is None else b for b in shown)
        elif not lexicographic:
            low_value = shown[0]
        runtime = time.perf_counter() - self.begin
        if isinstance(self.value, float) and isinstance(low_value, float):
            self.trajectory.append((runtime, self.value, low_value))
        rounding = None
        if not exact and self.schedule_proven and values and floor[0] is not None:
            rounding = values[0] - floor[0]
        return Result(
            status=status,
            schedule=self.best,
            objective=self.value,
            lower_bound=low_value,
            gap=gap,
            trajectory=tuple(self.trajectory),
            runtime_s=runtime,
            solver="cpsat",
            seed=self.seed,
            parameters={"workers": self.solver.workers, "time_limit_s": self.time_limit_s},
            explanation="" if status == "optimal" else self.note,
            rounding_gap=rounding,
            level_status=tuple(states) if lexicographic else (),
        )


class _Watch(cp_model.CpSolverSolutionCallback):
    """Offers every solution as a schedule in seconds."""

    def __init__(self, run: _Run, model: Model) -> None:
        super().__init__()
        self.run = run
        self.model = model

    def on_solution_callback(self) -> None:
        self.run.offer(self.run.read(self.model, self.value))


def _hint(model: Model, instance: Instance, schedule: Schedule) -> None:
    for i, row in enumerate(model.on):
        for n, literal in enumerate(row):
            model.cp.add_hint(literal, int(schedule.node[i] == n))
    o = schedule.operations
    keys = zip(o.task.tolist(), o.phase.tolist(), o.stage.tolist(), strict=True)
    for key, start in zip(keys, np.rint(o.start_s / instance.tick_s).tolist(), strict=True):
        if key in model.start:
            model.cp.add_hint(model.start[key], int(start))


def create(workers: int = 1, parts: Any = None, **switches: bool) -> CpSat:
    """Build the solver; `parts` and `switches` as in `chosen`."""
    return CpSat(workers, chosen(parts, switches))
