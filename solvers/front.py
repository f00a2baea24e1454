"""`solve`: one call in front of every solver and policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from lemix_opt.beyond import beyond_exact_model, require_loop_order
from lemix_opt.checks import checked_limits, whole
from lemix_opt.end_reasons import end_reasons, reasons_text
from lemix_opt.engine import simulate
from lemix_opt.errors import InfeasibleError, unknown
from lemix_opt.evaluation import objective_value
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.resolution import Resolution
from lemix_opt.result import Result, Value
from lemix_opt.schedule import Schedule
from lemix_opt.validation import validate
from solvers.checked import checked
from solvers.cut_short import solve_or_cut
from solvers.incumbent import levels_of
from solvers.normal_form import NormalForm
from solvers.registry import POLICIES, SOLVERS


class Solver(Protocol):
    """What a registered solver offers."""

    def solve(
        self,
        instance: Instance,
        objective: Objective,
        *,
        time_limit_s: float,
        deterministic_limit: float | None,
        seed: int,
        initial: Schedule | None,
        on_solution: Callable[[Schedule, Value], None] | None,
    ) -> Result:
        """Return the best result found within the limits."""
        ...


def list_solvers() -> list[str]:
    """Names that `solve` takes: solvers and online policies."""
    return sorted({*SOLVERS.names(), *POLICIES.names()})


def solve(
    instance: Instance,
    solver: str = "portfolio",
    objective: Objective | None = None,
    time_limit_s: float = 60.0,
    deterministic_limit: float | None = None,
    seed: int = 0,
    workers: int = 1,
    initial: Schedule | None = None,
    on_solution: Callable[[Schedule, Value], None] | None = None,
    **solver_parameters: Any,
) -> Result:
    """Solve one instance with the solver or policy of that name.

    Parameters
    ----------
    instance : Instance
        The problem.
    solver : str, default "portfolio"
        A name out of `list_solvers`. A policy is simulated on the predicted costs.
    objective : Objective, default makespan
        What is minimised.
    time_limit_s : float, default 60
        Wall seconds, model building included, but not the first compilation after an installation;
        policies ignore it. Finite unless there is a deterministic limit.
    deterministic_limit : float, optional
        Limit in the solver's own deterministic time units.
    seed : int, default 0
        Seed of all randomness.
    workers : int, default 1
        Threads of the solver; policies ignore it.
    initial : Schedule, optional
        A feasible schedule; the result is never worse.
    on_solution : callable, optional
        Called with every better schedule and its value.
    **solver_parameters
        Keywords of the solver's or policy's own.

    Returns
    -------
    Result
        Policies report no bound. Ctrl-C ends a solver within seconds; the result is the best so
        far, and its `interrupted` holds.

    Raises
    ------
    UnknownNameError
        For an unknown solver or parameter, naming the nearest known one.
    FieldError
        For a limit that is not above 0, no finite limit, or a negative seed.
    InfeasibleError
        If `initial` breaks a rule; the first violation is named.
    InternalError
        If what the solver returns does not hold: its schedule breaks a rule by `validate`, or
        objective, bound and status contradict each other.
    """
    objective = Objective(makespan=1.0) if objective is None else objective
    seed = whole("seed", seed, minimum=0)
    time_limit_s, deterministic_limit = checked_limits(time_limit_s, deterministic_limit)
    if initial is not None:
        violations = validate(instance, initial)
        if violations:
            raise InfeasibleError(str(violations[0].message), where="initial")
        if solver in SOLVERS:
            require_loop_order(initial, "initial")
    if solver in SOLVERS:
        built: Any = SOLVERS.create(
            solver, workers=whole("workers", workers, minimum=1), **solver_parameters
        )
        normal = NormalForm.of(instance, objective)
        start = normal.initial(initial)
        found = solve_or_cut(
            built.solve,
            normal.instance,
            normal.objective,
            solver=solver,
            seed=seed,
            initial=start,
            on_solution=normal.listener(on_solution),
            time_limit_s=time_limit_s,
            deterministic_limit=deterministic_limit,
        )
        if normal.unchanged:
            return found
        kept = initial if found.schedule is not None and found.schedule is start else None
        return checked(instance, objective, normal.result(found, kept))
    if solver not in POLICIES:
        raise unknown("solver", solver, list_solvers())
    return _simulated(instance, solver, objective, seed, initial, on_solution, solver_parameters)


def _simulated(
    instance: Instance,
    name: str,
    objective: Objective,
    seed: int,
    initial: Schedule | None,
    on_solution: Callable[[Schedule, Value], None] | None,
    parameters: dict[str, Any],
) -> Result:
    begin = time.perf_counter()
    schedule = simulate(instance, POLICIES.create(name, **parameters), seed=seed)
    runtime = time.perf_counter() - begin
    value = objective_value(instance, schedule, objective)
    notes = []
    if initial is not None:
        start_value = objective_value(instance, initial, objective)
        resolution = Resolution.of(instance, objective)
        if resolution.better(levels_of(start_value), levels_of(value)):
            schedule, value = initial, start_value
            notes.append("the initial schedule is better")
    broken = [v for v in validate(instance, schedule) if v.rule != "not_done"]
    status = "feasible" if schedule.complete else "incomplete"
    if broken:
        status = "invalid"
        notes.append(f"breaks the rule {broken[0].rule}: {broken[0].message}")
    notes.append(reasons_text(end_reasons(instance, schedule)))
    notes.append(beyond_exact_model(instance, schedule))
    if on_solution is not None:
        on_solution(schedule, value)
    return Result(
        status=status,
        schedule=schedule,
        objective=value,
        lower_bound=None,
        gap=None,
        trajectory=((runtime, value if isinstance(value, float) else None, None),),
        runtime_s=runtime,
        solver=name,
        seed=seed,
        parameters=parameters,
        explanation="; ".join(filter(None, notes)),
    )
