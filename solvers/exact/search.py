"""One search of CP-SAT that keeps its limits and can be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from solvers.exact.limits import Limits
from solvers.waiting import wait_for


@dataclass(frozen=True)
class Found:
    """How a search ended.

    Parameters
    ----------
    status : CpSolverStatus
        CP-SAT's word for it.
    value, bound : float
        Of the model's expression; meaningless under statuses that have none.
    interrupted : bool
        Whether Ctrl-C ended it.
    """

    status: Any
    value: float
    bound: float
    interrupted: bool


class _Watch(cp_model.CpSolverSolutionCallback):
    def __init__(self, hear: Callable[[Callable[[Any], int]], None]) -> None:
        super().__init__()
        self.hear = hear

    def on_solution_callback(self) -> None:
        self.hear(self.value)


def search(
    cp: cp_model.CpModel,
    limits: Limits,
    share: float,
    *,
    workers: int,
    seed: int,
    linear: bool = True,
    presolve: bool = True,
    hear: Callable[[Callable[[Any], int]], None] | None = None,
) -> Found:
    """Search until the proof or until a share of the limits is used up.

    CP-SAT runs in a thread of its own: the caller's thread wakes up for Ctrl-C, which CP-SAT would
    otherwise take without telling, and for a limit that CP-SAT overlooks.

    Parameters
    ----------
    linear : bool, default True
        Whether to solve linear relaxations on the way.
    presolve : bool, default True
        Whether to simplify the model first, which takes longer than the search of a small one.
    hear : callable, optional
        Called at every solution with a function that gives the value of a variable.
    """
    solver = cp_model.CpSolver()
    p = solver.parameters
    p.max_time_in_seconds = max(limits.left_s(share), 0.0)
    p.random_seed = seed % 2**31
    p.num_workers = workers
    p.catch_sigint_signal = False
    p.cp_model_presolve = presolve
    if not linear:
        p.linearization_level = 0
    deterministic = limits.left_deterministic(share)
    if deterministic is not None:
        p.max_deterministic_time = max(deterministic, 0.0)
    status: list[Any] = []

    def work() -> None:
        status.append(solver.solve(cp, None if hear is None else _Watch(hear)))

    interrupted = wait_for(work, lambda: limits.left_s(share) < 0, solver.stop_search)
    limits.spent += solver.response_proto.deterministic_time
    return Found(status[0], solver.objective_value, solver.best_objective_bound, interrupted)
