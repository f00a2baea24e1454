"""`portfolio`: policies, annealing, bounds and the exact solver, which share what they find."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lemix_opt.checks import whole
from lemix_opt.instance import Instance
from lemix_opt.interrupt import INTERRUPTED
from lemix_opt.objective import Objective
from lemix_opt.result import Result, Value
from lemix_opt.schedule import Schedule
from solvers.bounds.bound import Bound
from solvers.bounds.front import bound_from_zero, start_windows
from solvers.bounds.warm import compile_bounds
from solvers.exact.cpsat import CpSat
from solvers.exact.data import tick_data
from solvers.exact.limits import Limits
from solvers.exact.readout import Key
from solvers.exact.special import is_special
from solvers.incumbent import Incumbent, OnSolution
from solvers.lns.windows import Options, improve
from solvers.search.anneal import Anneal
from solvers.search.rebuild import rebuild
from solvers.search.search import Search
from solvers.search.warm import compile_search

Windows = Mapping[Key, tuple[int, int]]

FIRST, ALONE = 0.05, 0.35
"""Parts of the time limit by which rebuilding ends, and with one worker annealing and windows."""
BOUNDED, LARGE, BOUNDED_LARGE = 0.5, 60, 0.9
"""Part of the time limit that the bound takes at most, tasks from which on cpsat has no hope of a
better one, and the part that it takes then."""
ANNEALED = 0.7
"""Part of what is left for the search that the annealing takes; windows take the rest."""
LEAST_TASKS, PATIENCE = 31, 100
"""Tasks from which on windows are searched, and how many without gain end them."""
PLANS_PER_OPERATION = 3000
"""Plans of one annealing, which small instances get long before the time is over."""
SMALL, QUICK = 20, 0.6
"""Tasks up to which cpsat tries a proof ahead of everything else, and the part of the time limit by
which it gives up and the bound gets its time."""
QUICK_PLANS_PER_OPERATION, QUICK_EVALUATIONS = 300, 250
"""Plans and evaluations of the Lagrangian ahead of that."""
_ENDED = ("optimal", "infeasible")
PLANS, EVALUATIONS = 500, 20
"""Decoded plans and evaluations of the Lagrangian per unit of a deterministic limit."""


@dataclass(frozen=True)
class Portfolio:
    """All ways to a schedule and to a bound, anytime.

    Policies, beam search, annealing and windows give schedules, `lower_bound` and `cpsat` prove.
    With two workers or more the search for schedules goes on in a thread of its own beside the
    bound and, for more than a few tasks, beside cpsat, which starts from the best schedule; with
    one they take turns. Ctrl-C returns the best so far.

    Parameters
    ----------
    workers : int, default 1
        Threads.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        whole("workers", self.workers, minimum=1)

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
        """Solve an instance; never worse than `initial`.

        A deterministic limit is cpsat's; annealing and bounds get their parts of it, one after the
        other, so that the clock decides nothing.
        """
        compile_search()
        compile_bounds()
        best = Incumbent(instance, objective, on_solution)
        if initial is not None:
            best.offer(initial)
        run = _Run(self, best, time_limit_s, deterministic_limit, seed)
        try:
            run.go()
            run.wait()
        except KeyboardInterrupt:
            run.note = INTERRUPTED
        finally:
            run.end_search()
        if run.failure is not None:
            raise run.failure
        return run.result()


class _Run:
    def __init__(
        self,
        solver: Portfolio,
        best: Incumbent,
        time_limit_s: float,
        limit: float | None,
        seed: int,
    ) -> None:
        self.solver, self.best, self.time_limit_s = solver, best, time_limit_s
        self.limit, self.seed = limit, seed
        self.rng = np.random.default_rng(seed)
        self.search: Search | None = None
        self.halt = threading.Event()
        self.thread: threading.Thread | None = None
        self.exact: Result | None = None
        self.failure: BaseException | None = None
        self.note = ""

    def go(self) -> None:
        """Search, bound and prove."""
        best, instance = self.best, self.best.instance
        if is_special(instance, best.objective, tick_data(instance, bound=False)):
            self._prove(self.solver.workers, {})
            return
        search = self.search = Search(best, self.halt)
        search.begin()
        side_by_side = self.solver.workers > 1 and self.limit is None
        if 0 < instance.tasks <= SMALL and self.limit is None:
            self._quick_proof()
            if best.proven or (self.exact is not None and self.exact.status in _ENDED):
                return
        self._rebuild(FIRST)
        if not side_by_side:
            self._improve(ALONE)
        elif instance.tasks and not best.proven:
            self.thread = threading.Thread(target=self._improve_on, daemon=True)
            self.thread.start()
        if best.proven:
            return
        share = BOUNDED if instance.tasks < LARGE else BOUNDED_LARGE
        share = share if side_by_side else min(ALONE + share, BOUNDED_LARGE)
        left_s = share * self.time_limit_s - best.elapsed_s
        bound = bound_from_zero(
            instance,
            best.objective,
            np.inf if self.limit is not None else max(left_s, 0.0),
            upper_s=best.first_value if best.schedule is not None else None,
            evaluations=np.inf if self.limit is None else EVALUATIONS * self.limit,
        )
        best.raise_bound(bound.seconds)
        if instance.tasks < LEAST_TASKS:
            # What annealing finds of small instances it has found by now.
            self.end_search()
        left_s = self.time_limit_s - best.elapsed_s
        if best.proven or left_s <= 0:
            return
        workers = self.solver.workers - (self.thread is not None)
        self._prove(workers, self._windows(bound))

    def _quick_proof(self) -> None:
        """Search and bound as briefly as pays for an instance that cpsat may prove at once."""
        best, search = self.best, self.search
        assert search is not None
        plans = QUICK_PLANS_PER_OPERATION * search.operations
        until_s, defaults = FIRST * self.time_limit_s, Anneal()
        search.cool(self.rng, until_s=until_s, plans=plans, hot=defaults.hot, cold=defaults.cold)
        bound = bound_from_zero(
            best.instance,
            best.objective,
            max(QUICK * self.time_limit_s - best.elapsed_s, 0.0),
            upper_s=best.first_value if best.schedule is not None else None,
            evaluations=QUICK_EVALUATIONS,
        )
        best.raise_bound(bound.seconds)
        if not best.proven and best.elapsed_s < QUICK * self.time_limit_s:
            self._prove(self.solver.workers, self._windows(bound), QUICK)

    def _windows(self, bound: Bound) -> Windows:
        best = self.best
        if best.schedule is None:
            return {}
        return start_windows(best.instance, best.objective, bound, best.first_value)

    def _prove(self, workers: int, windows: Windows, until: float = 1.0) -> None:
        """Let cpsat search what is left, from the best schedule on."""
        best = self.best
        self.exact = CpSat(workers=workers, windows=windows).solve(
            best.instance,
            best.objective,
            time_limit_s=until * self.time_limit_s - best.elapsed_s,
            deterministic_limit=self.limit,
            seed=self.seed,
            initial=best.schedule,
            on_solution=self._offer,
        )
        low = self.exact.lower_bound
        best.raise_bound(low[0] if isinstance(low, tuple) else low)
        self.note = self.exact.explanation
        if self.exact.interrupted:
            raise KeyboardInterrupt

    def _offer(self, schedule: Schedule, value: Value) -> None:
        self.best.offer(schedule)

    def _rebuild(self, until: float) -> None:
        assert self.search is not None
        seconds = np.inf if self.limit is not None else until * self.time_limit_s
        plans = np.inf if self.limit is None else until * PLANS * self.limit
        rebuild(self.search, self.rng, until_s=seconds, plans=plans)

    def _improve(self, until: float) -> None:
        """Anneal once, then search windows, until a part of the time limit at most."""
        search, limit, instance = self.search, self.limit, self.best.instance
        assert search is not None
        plans: float = PLANS_PER_OPERATION * search.operations
        left_s = until * self.time_limit_s - self.best.elapsed_s
        defaults, large = Anneal(), instance.tasks >= LEAST_TASKS
        search.cool(
            self.rng,
            until_s=self.best.elapsed_s + (ANNEALED if large else 1.0) * left_s
            if limit is None
            else np.inf,
            plans=plans if limit is None else min(PLANS * limit, plans),
            hot=defaults.hot,
            cold=defaults.cold,
        )
        if large:
            seconds = until * self.time_limit_s - self.best.elapsed_s
            deterministic = None if limit is None else (1 - ANNEALED) * limit
            limits = Limits(np.inf if limit is not None else seconds, deterministic)
            improve(search, Options(), limits, self.rng, seed=self.seed, patience=PATIENCE)

    def _improve_on(self) -> None:
        """Improve again and again until the time limit; `failure` keeps what goes wrong."""
        try:
            while not self.halt.is_set() and self.best.elapsed_s < self.time_limit_s:
                self._improve(1.0)
                self._rebuild(1.0)
        except KeyboardInterrupt:
            return  # the caller's thread has heard of it too
        except BaseException as failure:  # the caller's thread raises it
            self.failure = failure

    def end_search(self) -> None:
        """End the thread that improves schedules."""
        self.halt.set()
        if self.thread is not None:
            self.thread.join()
        self.thread = None

    def wait(self) -> None:
        """Leave the annealing its time, unless everything is proven."""
        proven = self.best.proven or (self.exact is not None and self.exact.status == "optimal")
        if self.thread is not None and not proven:
            self.thread.join()

    def result(self) -> Result:
        """Return the best of all; cpsat's own result where levels are proven one by one."""
        parameters: dict[str, Any] = {
            "workers": self.solver.workers,
            "time_limit_s": self.time_limit_s,
        }
        found = self.best.result("portfolio", self.seed, parameters, self.note)
        exact = self.exact
        if exact is None:
            return found
        if found.objective is None:
            return exact if exact.status == "infeasible" else found
        if isinstance(found.objective, tuple) and self._reached(exact, found.objective):
            return replace(
                exact,
                solver="portfolio",
                parameters=parameters,
                trajectory=found.trajectory,
                runtime_s=found.runtime_s,
            )
        if exact.rounding_gap is not None and found.gap is not None and not self.best.proven:
            # What is left is rounding where cpsat proved the best schedule on the grid.
            return replace(found, rounding_gap=min(exact.rounding_gap, self._distance()))
        return found

    def _reached(self, exact: Result, values: tuple[float, ...]) -> bool:
        """Whether cpsat has a schedule as good as the best of all."""
        if not isinstance(exact.objective, tuple):
            return False
        return not self.best.resolution.better(values, exact.objective)

    def _distance(self) -> float:
        low = self.best.lower_bound
        return self.best.first_value - (low if low is not None else -np.inf)
