"""Short windows of a run, on which policies meet the proven optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.notes import NOTES, notes_of
from lemix_opt import Outcome, Result, replay, simulate, validate
from lemix_opt.checks import IntArray, checked_limits
from lemix_opt.decision_clock import DecisionClock
from lemix_opt.evaluation import objective_value, response_s
from lemix_opt.objective import Objective
from lemix_opt.result import relative_gap
from lemix_opt.schedule import Schedule
from lemix_opt.trace import Trace


@dataclass(frozen=True)
class ExactSettings:
    """How the exact solver is run on every window.

    Parameters
    ----------
    solver : str, default "cpsat"
        Name in the registry.
    time_limit_s : float, default 30
        Wall seconds per window.
    deterministic_limit : float, optional
        Limit in the solver's own time, for repeatable tables of windows that do not close.
    """

    solver: str = "cpsat"
    time_limit_s: float = 30.0
    deterministic_limit: float | None = None

    def __post_init__(self) -> None:
        checked_limits(self.time_limit_s, self.deterministic_limit)


@dataclass(frozen=True)
class WindowOutcome:
    """Rows, times and schedules of one window.

    Parameters
    ----------
    rows : tuple of dict
        One per policy and one for the exact solver, deterministic.
    times : tuple of dict
        Decisions and their wall seconds of the same; one row of the exact solver.
    responses : dict of str to ndarray
        Actual response of every inference task in seconds, by name.
    schedules : dict of str to Schedule
        Schedules on predicted costs, by name.
    """

    rows: tuple[dict[str, Any], ...]
    times: tuple[dict[str, Any], ...]
    responses: dict[str, Any]
    schedules: dict[str, Schedule]


def cut(trace: Trace, size: int) -> list[Trace]:
    """Cut a trace, in task order, into windows of at most `size` tasks; each starts at 0 s."""
    tasks = np.arange(trace.instance.tasks)
    return [part(trace, tasks[first : first + size]) for first in range(0, tasks.size, size)]


def part(trace: Trace, tasks: IntArray) -> Trace:
    """Return some tasks of a trace, the first released at 0 s."""
    first_s = float(np.min(trace.instance.workload.release_s[tasks]))
    instance = trace.instance.window(tasks, shift_s=first_s)
    return Trace(instance, trace.actual.take(tasks), trace.truth, trace.provenance)


def run_window(
    number: int,
    trace: Trace,
    objective: Objective,
    policies: tuple[str, ...],
    used: int | None,
    exact: ExactSettings,
    seed: int,
) -> WindowOutcome:
    """Run every policy and the exact solver on one window, from an empty cluster.

    Objectives and bounds are on predicted costs, which policies and solver both believe; responses
    are those of a replay on actual costs. "+" variants are kept to the first `used` nodes.
    A solver that Ctrl-C has cut raises `KeyboardInterrupt`: its window is not done.
    """
    from experiments.kept import create
    from solvers import solve

    instance = trace.instance
    inference = instance.workload.is_inference
    rows, times, responses, schedules = [], [], {}, {}
    best: tuple[float, Schedule] | None = None
    for name in policies:
        # Replayed first, so that what is compiled or imported late is there before the clock runs.
        done = replay(trace, create(name, used), seed=seed)
        clock = DecisionClock()
        plan = simulate(instance, create(name, used), seed=seed, clock=clock)
        said = notes_of(instance, plan, validate(instance, plan))
        valid = not any(said.values())
        value = float(np.sum(objective_value(instance, plan, objective)))
        if valid and np.isfinite(value) and (best is None or value < best[0]):
            best = (value, plan)
        rows.append(_row(number, name, trace, objective, plan, done, value, said))
        times.append(
            {"window": number, "name": name, "decisions": clock.decisions, "wall_s": clock.seconds}
        )
        responses[name] = response_s(instance, done.schedule)[inference]
        schedules[name] = plan
    result = solve(
        instance,
        exact.solver,
        objective,
        time_limit_s=exact.time_limit_s,
        deterministic_limit=exact.deterministic_limit,
        seed=seed,
        initial=None if best is None else best[1],
    )
    if result.interrupted:
        raise KeyboardInterrupt
    if result.schedule is not None:
        plan, name = result.schedule, exact.solver
        done = replay(trace, plan)
        value = float(np.sum(objective_value(instance, plan, objective)))
        rows.append(
            _row(number, name, trace, objective, plan, done, value, dict.fromkeys(NOTES, ""))
        )
        responses[name] = response_s(instance, done.schedule)[inference]
        schedules[name] = plan
    times.append(
        {"window": number, "name": exact.solver, "decisions": 1, "wall_s": result.runtime_s}
    )
    for row in rows:
        _compare(row, result)
    return WindowOutcome(tuple(rows), tuple(times), responses, schedules)


def _row(
    number: int,
    name: str,
    trace: Trace,
    objective: Objective,
    plan: Schedule,
    done: Outcome,
    value: float,
    said: dict[str, str],
) -> dict[str, Any]:
    score = done.score
    return {
        "window": number,
        "name": name,
        "tasks": trace.instance.tasks,
        "in_model": not any(said.values()),
        "objective_s": value,
        "lower_bound_s": None,
        "proven": False,
        "optimum_s": None,
        "above_optimum": None,
        "gap_to_bound": None,
        "actual_objective_s": float(
            np.sum(objective_value(trace.instance, done.schedule, objective))
        ),
        "bubble_rate": score.bubble_rate,
        "nodes_used": score.nodes_used,
        "slo_attainment_5x": score.slo_attainment_5x,
        "makespan_s": score.makespan_s,
        "planned_makespan_s": float(np.max(plan.operations.end_s, initial=0.0)),
        **said,
    }


def _compare(row: dict[str, Any], result: Result) -> None:
    """Set what the exact result says about a row; rows outside the model get no gap."""
    row["lower_bound_s"] = result.lower_bound
    row["proven"] = result.status == "optimal"
    if not row["in_model"] or not np.isfinite(row["objective_s"]):
        return
    if row["proven"]:
        row["optimum_s"] = float(np.sum(result.objective or 0.0))
        if row["optimum_s"]:
            row["above_optimum"] = row["objective_s"] / row["optimum_s"] - 1
    if row["lower_bound_s"] is not None:
        row["gap_to_bound"] = relative_gap(row["objective_s"], row["lower_bound_s"])
