"""`anneal`: simulated annealing over placements and orders of operations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import floats, whole
from lemix_opt.instance import Instance
from lemix_opt.interrupt import INTERRUPTED
from lemix_opt.objective import Objective
from lemix_opt.result import Result
from lemix_opt.schedule import Schedule
from solvers.incumbent import Incumbent, OnSolution
from solvers.search.rebuild import rebuild
from solvers.search.search import Search
from solvers.search.warm import compile_search

REBUILDING = 0.1
"""Part of the limit by which rebuilding ends."""


@dataclass(frozen=True)
class Anneal:
    """Simulated annealing; no proof, but good schedules of any size the exact model covers.

    Plans are decoded by `solvers.search.decode`. A run cools from `hot` to `cold` over the time it
    is given. With a deterministic limit the same seed gives the same result.

    Parameters
    ----------
    workers : int, default 1
        Accepted for all solvers; one thread is used.
    hot : float, default 0.4
        First temperature, in parts of the mean cost of a task in the schedule it starts from.
    cold : float, default 3e-5
        Last temperature, in parts of the whole cost of that schedule.
    """

    workers: int = 1
    hot: float = 0.4
    cold: float = 3e-5

    def __post_init__(self) -> None:
        whole("workers", self.workers, minimum=1)
        floats("hot", self.hot, (), above=0)
        floats("cold", self.cold, (), above=0)

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
        """Improve `initial`, or what policies find; `deterministic_limit` counts decoded plans."""
        compile_search()
        best = Incumbent(instance, objective, on_solution)
        if initial is not None:
            best.offer(initial)
        note = ""
        until_s = time_limit_s if deterministic_limit is None else math.inf
        plans = math.inf if deterministic_limit is None else deterministic_limit
        try:
            search, rng = Search(best), np.random.default_rng(seed)
            search.begin()
            rebuild(search, rng, until_s=REBUILDING * until_s, plans=REBUILDING * plans)
            search.cool(rng, until_s=until_s, plans=plans, hot=self.hot, cold=self.cold)
        except KeyboardInterrupt:
            note = INTERRUPTED
        parameters = {"hot": self.hot, "cold": self.cold, "time_limit_s": time_limit_s}
        return best.result("anneal", seed, parameters, note or "annealing proves nothing")
