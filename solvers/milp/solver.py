"""`milp`: proven optima and bounds with HiGHS, to check other exact solvers against."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from lemix_opt.checks import BoolArray, IntArray, whole
from lemix_opt.evaluation import objective_value
from lemix_opt.instance import Instance
from lemix_opt.interrupt import INTERRUPTED
from lemix_opt.objective import Objective
from lemix_opt.result import Result, Value
from lemix_opt.schedule import Schedule
from lemix_opt.validation import validate
from solvers.incumbent import Incumbent, OnSolution
from solvers.milp.chains import Chains, chains, heads, open_nodes, windows
from solvers.milp.constraints import starts, state_rules
from solvers.milp.list_schedule import list_schedule, search
from solvers.milp.program import Program
from solvers.milp.reading import schedule_of
from solvers.milp.rounding import Rounded, rounded
from solvers.milp.terms import Frame, Level, endings, state_level
from solvers.milp.weights import loads, weights
from solvers.waiting import answer_of

SLACK = 1e-7
"""Relative part of a bound that is given up, since HiGHS works in floating point.

Its reduced costs may be wrong by 1e-7, so that the same amount is given up per unit of a column's
range where the objective is a whole number of units and the bound can then be rounded up.
"""
_OPTIMAL, _INFEASIBLE = 0, 2
"""SciPy's codes."""


@dataclass(frozen=True)
class Milp:
    """Exact solver over a time-indexed program; shares no model with `cpsat`.

    For every operation, node and tick a column says whether the operation has started there by
    then. Precedence, GPUs and memory are rows per tick with few entries each. That is for
    cross-checks: instances of some five tasks at 1 ms are solved at once, twelve tasks mostly not
    within a minute. A list schedule, or `initial`, narrows the ticks that an operation may start
    in.

    HiGHS is called through SciPy, which passes on neither a start solution, a seed, threads nor a
    callback. So `initial` becomes a bound on the objective and is returned where nothing better is
    found; the seed only steers the search for list schedules; one thread runs; `on_solution` is
    called once, at the end. A unit of `deterministic_limit` is one node of the branch-and-bound
    tree, per level and model; the work in the root node is limited by time alone.

    Parameters
    ----------
    workers : int, default 1
        Accepted and recorded; HiGHS through SciPy has a single thread.
    max_nonzeros : int, default 2_000_000
        Largest program that is built. A larger one raises `UnsupportedError`.
    """

    workers: int = 1
    max_nonzeros: int = 2_000_000

    def __post_init__(self) -> None:
        whole("max_nonzeros", self.max_nonzeros, minimum=1)

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
        """Solve an instance; never worse than `initial`, which must be feasible.

        Raises
        ------
        UnsupportedError
            If the rules lie outside the exact model or the program is larger than `max_nonzeros`.
        """
        run = _Run(self, instance, objective, time_limit_s, deterministic_limit, seed)
        best = run.best
        bounds: list[float | None] = [None] * len(objective.levels)
        if initial is not None:
            best.offer(initial)
        data = rounded(instance, bound=False)
        try:
            found = run.descend(data, bound=False, share=1.0 if data.exact else 0.5)
            if not data.exact:
                found = run.descend(rounded(instance, bound=True), bound=True, share=1.0)
            bounds = found
        except KeyboardInterrupt:
            run.note = INTERRUPTED
        if on_solution is not None and best.schedule is not None and best.value is not None:
            on_solution(best.schedule, best.value)
        for level, bound_s in enumerate(bounds):
            if bound_s is not None and best.values:
                own_s = best.values[level]
                bound_s = own_s if best.resolution.gap(own_s, bound_s, level) == 0.0 else bound_s
            best.raise_bound(bound_s, level)
        parameters = {
            "workers": self.workers,
            "time_limit_s": time_limit_s,
            "max_nonzeros": self.max_nonzeros,
        }
        return best.result(
            "milp",
            seed,
            parameters,
            run.note,
            impossible=run.impossible,
            rounding=not data.exact and run.schedule_proven,
        )


@dataclass(frozen=True)
class _Answer:
    """What HiGHS said about one level, in units."""

    status: int
    values: IntArray | None
    worth: float
    bound: float


class _Run:
    def __init__(
        self,
        solver: Milp,
        instance: Instance,
        objective: Objective,
        time_limit_s: float,
        deterministic_limit: float | None,
        seed: int,
    ) -> None:
        self.solver, self.instance, self.objective = solver, instance, objective
        self.time_limit_s, self.seed = time_limit_s, seed
        self.options: dict[str, Any] = {"mip_rel_gap": 0.0}
        if deterministic_limit is not None:
            self.options["node_limit"] = max(1, math.ceil(deterministic_limit))
        self.best = Incumbent(instance, objective)
        self.note = ""
        self.impossible = self.schedule_proven = False

    def no_schedule(self, *, exact: bool, bound: bool) -> None:
        """Note that a model has no solution as good as the best schedule, or none at all."""
        if self.best.schedule is not None and (exact or bound):
            self.note = "HiGHS found no solution where one is known; do not trust this run"
        elif self.best.schedule is not None:
            # The model that is rounded up holds nothing better than what is known.
            self.schedule_proven = True
        else:
            self.impossible = exact or bound
            self.note = "no schedule exists"
            if not self.impossible:
                self.note = "no schedule is left where memory must be rounded; use 'cpsat'"

    def descend(self, data: Rounded, *, bound: bool, share: float) -> list[float | None]:
        """Solve level after level; return the proven bounds in seconds, None where unknown."""
        best, order = self.best, self.objective.levels
        found: list[float | None] = [None] * len(order)
        chain, may = chains(self.instance, data), open_nodes(self.instance, data)
        if not may.any(axis=1).all():
            self.no_schedule(exact=data.exact, bound=bound)
            return found
        if not bound:
            self._first_schedules(data, chain, may, best.begin + 0.1 * self.time_limit_s)
        prices = [weights(self.instance, self.objective, names) for names in order]
        # Off the grid seconds and ticks of lower levels cannot be compared.
        known = best.values if data.exact or bound or len(order) == 1 else ()
        head = heads(chain, data, may)
        work = loads(self.instance, int(data.release.max(initial=0)), bound=bound)
        deadline = np.full(self.instance.tasks, data.horizon)
        if known:
            deadline = prices[0].deadlines(head.done, known[0], data.horizon, work)
        window = windows(chain, head, deadline)
        if not window.possible:
            self.no_schedule(exact=data.exact, bound=bound)
            return found
        program = Program(self.solver.max_nonzeros)
        columns = starts(program, chain, window)
        state_rules(program, self.instance, data, chain, window, columns)
        frame = Frame(program, self.instance, data, chain, window, columns, work)
        done = endings(frame)
        levels = [state_level(frame, price, done) for price in prices]
        until = best.begin + share * self.time_limit_s
        for depth, level in enumerate(levels):
            left = until - time.perf_counter()
            if left <= 0:
                self.note = "the time limit was reached"
                break
            if known and (depth == 0 or data.exact):
                _at_most(program, level, best.values[depth])
                if level.least_s >= best.values[depth] - best.resolution.unit[depth]:
                    found[depth] = level.least_s
                    continue
            answer = _highs(program, level, {**self.options, "time_limit": left})
            if answer.status == _INFEASIBLE:
                self.no_schedule(exact=data.exact, bound=bound)
                break
            found[depth] = max(level.least_s, level.constant_s + level.unit_s * answer.bound)
            if answer.values is not None and not bound:
                node, start = columns.read(chain, answer.values)
                self._check(schedule_of(self.instance, chain, node, start))
            if answer.status != _OPTIMAL or answer.values is None:
                self.note = "a limit was reached before the proof"
                break
            if bound or not level.whole:
                # A relaxed optimum may cut off the true one, so lower levels get no bound here.
                if len(levels) > 1:
                    self.note = "lower levels have no bound off the grid"
                break
            _at_most(program, level, level.constant_s + level.unit_s * answer.worth)
        else:
            self.schedule_proven = self.schedule_proven or not bound
        return found

    def _first_schedules(self, data: Rounded, chain: Chains, may: BoolArray, until: float) -> None:
        def worth(order: IntArray) -> Value:
            node, start = list_schedule(self.instance, data, chain, may, order)
            schedule = schedule_of(self.instance, chain, node, start)
            self.best.offer(schedule)
            return objective_value(self.instance, schedule, self.objective)

        search(self.instance, worth, data.release, self.seed, until)

    def _check(self, schedule: Schedule) -> None:
        """Offer what HiGHS returned, unless its tolerances let a broken rule through."""
        violations = validate(self.instance, schedule)
        if violations:
            self.note = f"HiGHS returned an infeasible schedule: {violations[0].message}"
        else:
            self.best.offer(schedule)


def _at_most(program: Program, level: Level, value_s: float) -> None:
    """Ask for solutions that are worth no more than a value that is known to be reached."""
    units = (value_s - level.constant_s) / level.unit_s
    noise = 1e-6 * max(1.0, abs(units))
    limit = math.floor(units + 1e-3) + 0.5 if level.whole else units + noise
    columns = np.array(list(level.costs), dtype=np.int64)
    program.row(-math.inf, limit, (np.array(list(level.costs.values())), columns))


def _highs(program: Program, level: Level, options: dict[str, Any]) -> _Answer:
    lower, upper = program.bounds()
    costs = level.vector(program.columns)
    table, low, high = program.matrix()
    found = answer_of(
        lambda: milp(
            costs,
            integrality=np.ones(program.columns),
            bounds=Bounds(lower, upper),
            constraints=LinearConstraint(table, low, high),
            options=options,
        )
    )
    values = None if found.x is None else np.rint(found.x).astype(np.int64)
    worth = math.inf if values is None else float(costs @ values)
    raw = found.mip_dual_bound
    if raw is None or not math.isfinite(raw):
        return _Answer(found.status, values, worth, -math.inf)
    slack = SLACK * max(1.0, abs(raw))
    if not level.whole:
        return _Answer(found.status, values, worth, raw - slack)
    slack += 0.01 + SLACK * float((upper - lower).sum())
    return _Answer(found.status, values, worth, float(math.ceil(raw - slack)))
