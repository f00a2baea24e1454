"""Window after window around the best schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import floats, whole
from lemix_opt.errors import FieldError, unknown
from lemix_opt.evaluation import objective_value
from lemix_opt.result import Value
from solvers.exact.limits import Limits, OutOfTimeError
from solvers.incumbent import levels_of
from solvers.lns.choice import Choice
from solvers.lns.neighbourhoods import NEIGHBOURHOODS, around
from solvers.lns.scene import Scene
from solvers.lns.state import State, state_of, view_of
from solvers.lns.window import search_window
from solvers.search.plan import Plan, decoded
from solvers.search.search import Search

OVERHEAD = 0.003
"""Units of deterministic time that a window counts beside its search."""


@dataclass(frozen=True)
class Options:
    """How windows are searched; see `solvers.lns.solver.Lns`."""

    workers: int = 1
    neighbourhoods: tuple[str, ...] = tuple(NEIGHBOURHOODS)
    window: float = 0.01
    kept: int = 4

    def __post_init__(self) -> None:
        whole("workers", self.workers, minimum=1)
        whole("kept", self.kept, minimum=0)
        floats("window", self.window, (), above=0)
        object.__setattr__(self, "neighbourhoods", tuple(self.neighbourhoods))
        if not self.neighbourhoods:
            raise FieldError("no neighbourhood", where="neighbourhoods", expected="at least one")
        for name in self.neighbourhoods:
            if name not in NEIGHBOURHOODS:
                raise unknown("neighbourhood", name, tuple(NEIGHBOURHOODS))


def improve(
    search: Search,
    options: Options,
    limits: Limits,
    rng: np.random.Generator,
    *,
    seed: int,
    patience: float = math.inf,
) -> None:
    """Search windows around the best schedule; what they find goes to the incumbent.

    Parameters
    ----------
    search : Search
        With a plan; without one nothing happens. Its `halt` ends the windows.
    limits : Limits
        Of all windows.
    seed : int
        Of CP-SAT in the first window.
    patience : float
        Windows without gain after which nothing more is hoped for.
    """
    search.follow_best()
    if search.plan is None or not search.instance.tasks:
        return
    windows = _Windows(search, options, limits, rng, seed, search.plan)
    try:
        while not (limits.over() or windows.closed or search.halt.is_set() or search.best.proven):
            windows.step()
            if windows.choice.idle >= patience:
                break
    except OutOfTimeError:
        return


class _Windows:
    def __init__(
        self,
        search: Search,
        options: Options,
        limits: Limits,
        rng: np.random.Generator,
        seed: int,
        plan: Plan,
    ) -> None:
        self.search, self.options, self.limits = search, options, limits
        self.rng, self.seed = rng, seed
        self.best, self.instance = search.best, search.instance
        self.choice = Choice(options.neighbourhoods, self.instance.tasks)
        self.windows = 0
        self.closed = False
        self.state, self.value = self._start(plan)

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

    def step(self) -> None:
        """Search one window."""
        options, search, state = self.options, self.search, self.state
        view = view_of(self.instance, search.data, state)
        scene = Scene(self.instance, search.work, state, view)
        name = self.choice.draw(self.rng)
        free = NEIGHBOURHOODS[name](scene, self.choice.size[name], self.rng)
        left = self.limits.left_deterministic()
        limit = options.window * self.choice.patience
        limit = limit if left is None else min(limit, left)
        own = Limits(self.limits.left_s(), limit)
        found = search_window(
            scene,
            search.data,
            self.best.objective,
            free,
            around(scene, free, options.kept),
            own,
            workers=options.workers,
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
                if not self.best.resolution.better(levels_of(self.value), levels_of(value)):
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
