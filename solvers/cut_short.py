"""What `solve` returns when Ctrl-C ends a solver, whatever the solver makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lemix_opt.instance import Instance
from lemix_opt.interrupt import INTERRUPTED, interrupted, interruptible, stop_if_interrupted
from lemix_opt.objective import Objective
from lemix_opt.result import Result, Value
from lemix_opt.schedule import Schedule
from solvers.checked import checked
from solvers.incumbent import Incumbent, OnSolution

_ENDED = ("optimal", "infeasible")
"""Statuses that nothing can have cut."""


def solve_or_cut(
    call: Callable[..., Result],
    instance: Instance,
    objective: Objective,
    *,
    solver: str,
    seed: int,
    initial: Schedule | None,
    on_solution: OnSolution | None,
    **limits: Any,
) -> Result:
    """Call a solver; after Ctrl-C return the best schedule so far, with the note ``interrupted``.

    Solvers end by themselves, with what they have proven. Where one is interrupted ahead of its
    search, or overlooks it, the schedules heard of by then count.
    """
    heard: list[Schedule] = [] if initial is None else [initial]

    def hear(schedule: Schedule, value: Value) -> None:
        heard[:] = [schedule]
        if on_solution is not None:
            on_solution(schedule, value)

    with interruptible():
        try:
            stop_if_interrupted()
            found = call(
                instance, objective, seed=seed, initial=initial, on_solution=hear, **limits
            )
            found = checked(instance, objective, found)
        except KeyboardInterrupt:
            best = Incumbent(instance, objective)
            for schedule in heard:
                best.offer(schedule)
            found = checked(instance, objective, best.result(solver, seed, limits, INTERRUPTED))
        if interrupted() and not found.interrupted and found.status not in _ENDED:
            found = replace(found, explanation=INTERRUPTED)
        return found
