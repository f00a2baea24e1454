"""`lns`: large neighbourhood search with windows of the exact model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import floats
from lemix_opt.instance import Instance
from lemix_opt.interrupt import INTERRUPTED
from lemix_opt.objective import Objective
from lemix_opt.result import Result
from lemix_opt.schedule import Schedule
from solvers.exact.limits import Limits, OutOfTimeError
from solvers.incumbent import Incumbent, OnSolution
from solvers.lns.neighbourhoods import NEIGHBOURHOODS
from solvers.lns.windows import Options, improve
from solvers.search.anneal import Anneal
from solvers.search.rebuild import rebuild
from solvers.search.search import Search
from solvers.search.warm import compile_search

PLANS = 5_000
"""Decoded plans of the first annealing per unit of a deterministic limit."""
REBUILDING = 0.1
"""Part of the annealing's limit by which rebuilding ends."""


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
        object.__setattr__(self, "neighbourhoods", tuple(self.neighbourhoods))
        floats("annealing", self.annealing, (), minimum=0, maximum=1)
        self._options()

    def _options(self) -> Options:
        return Options(self.workers, self.neighbourhoods, self.window, self.kept)

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
        compile_search()
        best = Incumbent(instance, objective, on_solution)
        if initial is not None:
            best.offer(initial)
        seconds = time_limit_s if deterministic_limit is None else math.inf
        limits = Limits(seconds, deterministic_limit)
        note, rng = "", np.random.default_rng(seed)
        try:
            search = Search(best)
            search.begin()
            if self.annealing:
                self._anneal(search, rng, limits)
            improve(search, self._options(), limits, rng, seed=seed)
        except OutOfTimeError:
            note = "the time limit was reached"
        except KeyboardInterrupt:
            note = INTERRUPTED
        parameters = {
            "workers": self.workers,
            "neighbourhoods": self.neighbourhoods,
            "window": self.window,
            "kept": self.kept,
            "annealing": self.annealing,
            "time_limit_s": time_limit_s,
        }
        return best.result("lns", seed, parameters, note or "windows prove nothing about the whole")

    def _anneal(self, search: Search, rng: np.random.Generator, limits: Limits) -> None:
        limit, defaults = limits.deterministic_limit, Anneal()
        until_s = self.annealing * limits.time_limit_s
        plans = math.inf if limit is None else self.annealing * PLANS * limit
        rebuild(search, rng, until_s=REBUILDING * until_s, plans=REBUILDING * plans)
        search.cool(rng, until_s=until_s, plans=plans, hot=defaults.hot, cold=defaults.cold)
