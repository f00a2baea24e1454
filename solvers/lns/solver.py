"""`lns`: large neighbourhood search with windows of the exact model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import floats, whole
from lemix_opt.errors import FieldError, unknown
from lemix_opt.evaluation import objective_value
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.result import Result, Value
from lemix_opt.schedule import Schedule
from solvers.exact.limits import Limits, OutOfTimeError
from solvers.incumbent import Incumbent, OnSolution
from solvers.lns.choice import Choice
from solvers.lns.neighbourhoods import NEIGHBOURHOODS, around
from solvers.lns.scene import Scene
from solvers.lns.state import State, state_of, view_of
from solvers.lns.window import search_window
from solvers.search.anneal import Anneal, Search
from solvers.search.plan import Plan, decoded

PLANS = 5_000
"""Decoded plans of the first annealing per unit of a deterministic limit."""
OVERHEAD = 0.003
"""Units of deterministic time that a window counts beside its search."""


@dataclass(frozen=True)
class Lns:
    """Large neighbourhood search; no proof, and an early end where all tasks fit into one window.

    A short annealing gives a schedule. Then some of its tasks are scheduled again by the exact
    model, again and again, while the others keep their nodes and their order or stay as they are;
    what comes of it is decoded anew, so that everything behind it moves up. Ctrl-C returns the
    best so far.

    Parameters
    ----------
    workers : int, default 1
        Threads of CP-SAT.
    neighbourhoods : tuple of str
        Those that are used, out of `solvers.lns.neighbourhoods.NEIGHBOURHOODS`.
    window : float, default 0.01
        Limit of one window in CP-SAT's deterministic time, of which a second has about 0.05; it
        grows while windows bring nothing.
    kept : int, default 4
        Tasks around the freed ones that keep only their nodes and their order.
    annealing : float, default 0.7
        Part of the limit that the first annealing takes.
    """

    workers: int = 1
    neighbourhoods: tuple[str, ...] = tuple(NEIGHBOURHOODS)
    window: float = 0.01
    kept: int = 4
    annealing: float = 0.7

    def __post_init__(self) -> None:
        whole("workers", self.workers, minimum=1)
        whole("kept", self.kept, minimum=0)
        floats("window", self.window, (), above=0)
        floats("annealing", self.annealing, (), minimum=0, maximum=1)
        object.__setattr__(self, "neighbourhoods", tuple(self.neighbourhoods))
        if not self.neighbourhoods:
            raise FieldError("no neighbourhood", where="neighbourhoods", expected="at least one")
        for name in self.neighbourhoods:
            if name not in NEIGHBOURHOODS:
                raise unknown("neighbourhood", name, tuple(NEIGHBOURHOODS))

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
        """Improve `initial`, or what policies find; `deterministic_limit` is in CP-SAT's units."""
        best = Incumbent(instance, objective, on_solution)
        if initial is not None:
            best.offer(initial)
        seconds = time_limit_s if deterministic_limit is None else math.inf
        limits = Limits(seconds, deterministic_limit)
        note = ""
        try:
            run = _Run(self, best, limits, seed)
            run.go()
        except OutOfTimeError:
            note = "the time limit was reached"
        except KeyboardInterrupt:
            note = "interrupted"
        parameters = {
            "workers": self.workers,
            "neighbourhoods": self.neighbourhoods,
            "window": self.window,
            "kept": self.kept,
            "annealing": self.annealing,
            "time_limit_s": time_limit_s,
        }
        if best.schedule is None:
            note = note or "rounding memory to MiB leaves some task no node"
        return best.result("lns", seed, parameters, note or "windows prove nothing about the whole")


class _Run:
    def __init__(self, solver: Lns, best: Incumbent, limits: Limits, seed: int) -> None:
        self.solver, self.best, self.limits, self.seed = solver, best, limits, seed
        self.instance = best.instance
        self.rng = np.random.default_rng(seed)
        self.search = Search(best)
        self.choice = Choice(solver.neighbourhoods, self.instance.tasks)
        self.windows = 0
        self.closed = False
        self.state: State
        self.value: Value

    def go(self) -> None:
        """Anneal, then search window after window."""
        self.search.begin()
        if self.search.plan is None or not self.instance.tasks:
            return
        share, limit = self.solver.annealing, self.limits.deterministic_limit
        defaults = Anneal()
        if share:
            self.search.cool(
                self.rng,
                until_s=share * self.limits.time_limit_s,
                plans=math.inf if limit is None else share * PLANS * limit,
                hot=defaults.hot,
                cold=defaults.cold,
            )
        self.state, self.value = self._start(self.search.plan)
        while not self.limits.over() and not self.closed:
            self._step()

    def _start(self, plan: Plan) -> tuple[State, Value]:
        """Return the best schedule in ticks, or what its plan is decoded into off the grid."""
        assert self.best.schedule is not None
        assert self.best.value is not None
        known = state_of(self.instance, self.search.data, self.best.schedule)
        if known is not None:
            return known, self.best.value
        state = self._decoded(plan)
        assert state is not None
        schedule = state.schedule(self.instance)
        return state, objective_value(self.instance, schedule, self.best.objective)

    def _step(self) -> None:
        """Search one window."""
        solver, search, state = self.solver, self.search, self.state
        view = view_of(self.instance, search.data, state)
        scene = Scene(self.instance, search.work, state, view)
        name = self.choice.draw(self.rng)
        free = NEIGHBOURHOODS[name](scene, self.choice.size[name], self.rng)
        left = self.limits.left_deterministic()
        limit = solver.window * self.choice.patience
        limit = limit if left is None else min(limit, left)
        own = Limits(self.limits.left_s(), limit)
        found = search_window(
            scene,
            search.data,
            self.best.objective,
            free,
            around(scene, free, solver.kept),
            own,
            workers=solver.workers,
            seed=self.seed + self.windows,
        )
        self.windows += 1
        self.limits.spent += own.spent + OVERHEAD
        before = self.value
        if found.state is not None:
            self._go_on(found.state)
        # A window of all tasks leaves nothing to do.
        self.closed = found.proven and free.size == self.instance.tasks
        self.choice.learn(
            name,
            _gain(before, self.value),
            own.spent + OVERHEAD,
            own.spent / limit,
            proven=found.proven,
        )
        if found.interrupted:
            raise KeyboardInterrupt

    def _go_on(self, state: State) -> None:
        """Take over a state, or what decoding its order gives, unless both are worse."""
        for candidate in (state, self._decoded(state.plan(self.instance))):
            if candidate is not None:
                schedule = candidate.schedule(self.instance)
                value = objective_value(self.instance, schedule, self.best.objective)
                if value <= self.value:  # type: ignore[operator]
                    self.state, self.value = candidate, value
                    self.best.offer(schedule)

    def _decoded(self, plan: Plan) -> State | None:
        """Return what a plan is decoded into; None where memory does not allow it."""
        if not math.isfinite(decoded(self.search.work, self.search.board, plan)):
            return None
        return State(plan.place, self.search.board.start.copy())


def _gain(before: Value, after: Value) -> float:
    """Return what the first level that differs has gained."""
    if isinstance(before, tuple) and isinstance(after, tuple):
        return next((b - a for b, a in zip(before, after, strict=True) if b != a), 0.0)
    assert isinstance(before, float)
    assert isinstance(after, float)
    return before - after
