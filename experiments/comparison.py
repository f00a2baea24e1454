"""The main job: policies on a whole run, and beside the proven optimum on its windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.notes import NOTES, notes_of
from experiments.study import Problem, Study, build
from experiments.synced import synced
from experiments.windows import ExactSettings, WindowOutcome, cut, part, run_window
from experiments.workers import in_order as spread
from lemix_opt import replay, validate
from lemix_opt.checks import whole
from lemix_opt.decision_clock import DecisionClock
from lemix_opt.errors import unknown
from lemix_opt.evaluation import attainment, objective_value
from lemix_opt.interrupt import interruptible
from lemix_opt.percentile import percentile
from lemix_opt.result import relative_gap
from lemix_opt.schedule import Schedule

POLICIES = ("lemix", "lemix-reference", "separate", "mix-rr", "mix-luf", "random", "jsq")
WARM = 32
"""First tasks that every policy runs on before it is measured."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Comparison:
    """Tables and schedules of one comparison.

    Parameters
    ----------
    problem : Problem
        What was compared on.
    run : tuple of dict
        One row per policy over the whole stretch, on actual costs.
    windows : tuple of dict
        One row per window and policy or solver.
    summary : tuple of dict
        One row per policy or solver over all windows.
    times : tuple of dict
        Decisions and their wall seconds, see `lemix_opt.decision_clock`; for the exact solver one
        row per window. The only table that differs from run to run.
    schedules : dict of str to Schedule
        Schedules of the whole stretch on actual costs, by policy.
    first_window : WindowOutcome or None
        Schedules of the first window on predicted costs.
    cut : str
        What is done, where Ctrl-C has ended the comparison.
    """

    problem: Problem
    run: tuple[dict[str, Any], ...]
    windows: tuple[dict[str, Any], ...]
    summary: tuple[dict[str, Any], ...]
    times: tuple[dict[str, Any], ...]
    schedules: dict[str, Schedule]
    first_window: WindowOutcome | None
    cut: str = ""


def compare(
    study: Study | Problem,
    policies: Sequence[str] = POLICIES,
    exact: ExactSettings | None = None,
    *,
    window: int = 16,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Run policies on a whole stretch and, with the exact solver, on its windows.

    Parameters
    ----------
    study : Study or Problem
        What to compare on.
    policies : sequence of str
        Names in the registry; one that ends in "+" is kept to the first nodes, as many as ``lemix``
        used on the whole stretch (`experiments.kept`).
    exact : ExactSettings, optional
        The exact solver; without it windows are not run.
    window : int, default 16
        Most tasks of a window.
    jobs : int, default 1
        Processes windows are spread over; tables do not depend on it.
    progress : callable, optional
        Called with what is done, how much of it, and out of how much.

    Raises
    ------
    UnknownNameError
        For an unknown policy or solver, before anything runs.
    KeyboardInterrupt
        On Ctrl-C before anything is done; later it ends with what is done.
    """
    from experiments.kept import COUNTED_FROM, check_names, in_order
    from solvers.registry import SOLVERS

    check_names(policies)
    if exact is not None and exact.solver not in SOLVERS:
        raise unknown("solver", exact.solver, SOLVERS.names())
    window = whole("window", window, minimum=1)
    problem = study if isinstance(study, Problem) else build(study)
    seed = problem.seed
    report = progress or (lambda what, done, total: None)
    rows, times, found, used = {}, {}, {}, None
    outcomes: list[WindowOutcome] = []
    parts = [] if exact is None else cut(problem.trace, window)
    note = ""
    with interruptible():
        try:
            for i, name in enumerate(in_order(policies)):
                report("policies on the whole run", i, len(policies))
                rows[name], times[name], found[name] = _whole(problem, name, used, seed)
                if name == COUNTED_FROM:
                    used = rows[name]["nodes_used"]
            report("policies on the whole run", len(policies), len(policies))
            calls = [
                (i, part, problem.objective, tuple(policies), used, exact, seed)
                for i, part in enumerate(parts)
            ]
            # One window is one job, in order, so that tables do not depend on who ran what.
            with closing(spread(run_window, calls, jobs)) as ended:
                for done, outcome in enumerate(ended, 1):
                    outcomes.append(outcome)
                    report("windows with the exact solver", done, len(parts))
        except KeyboardInterrupt:
            if not found:
                raise
            note = (
                f"INTERRUPTED: {len(found)} of {len(policies)} policies on the whole run and "
                f"{len(outcomes)} of {len(parts)} windows are done"
            )
    policies = [name for name in policies if name in found]
    return Comparison(
        problem,
        tuple(rows[name] for name in policies),
        tuple(row for o in outcomes for row in o.rows),
        tuple(_summary(outcomes, problem)),
        (*(times[name] for name in policies), *(t for o in outcomes for t in o.times)),
        {name: found[name] for name in policies},
        outcomes[0] if outcomes else None,
        note,
    )


def _whole(
    problem: Problem, name: str, used: int | None, seed: int
) -> tuple[dict[str, Any], dict[str, Any], Schedule]:
    from experiments.kept import create

    policy, clock = create(name, used), DecisionClock()
    trace = synced(problem.trace, policy, problem.weight_sync_s)
    # What is compiled or imported late is there before the clock runs.
    replay(part(trace, np.arange(min(WARM, trace.instance.tasks))), create(name, used), seed=seed)
    outcome = replay(trace, policy, seed=seed, clock=clock)
    broken = validate(trace.instance.with_costs(trace.actual), outcome.schedule)
    value = objective_value(trace.instance, outcome.schedule, problem.objective)
    row = {
        "name": name,
        "actual_objective_s": float(np.sum(value)),
        **outcome.score.as_dict(),
        "rules_broken": len(broken),
        **notes_of(trace.instance, outcome.schedule, broken, trace.actual),
    }
    took = {"window": -1, "name": name, "decisions": clock.decisions, "wall_s": clock.seconds}
    return row, took, outcome.schedule


def _summary(outcomes: list[WindowOutcome], problem: Problem) -> list[dict[str, Any]]:
    if not outcomes:
        return []
    unit = float(problem.trace.instance.slo_unit_s or np.nan)
    return [
        _over_windows(name, outcomes, unit)
        for name in dict.fromkeys(row["name"] for o in outcomes for row in o.rows)
    ]


def _over_windows(name: str, outcomes: list[WindowOutcome], unit: float) -> dict[str, Any]:
    rows = [row for o in outcomes for row in o.rows if row["name"] == name]
    counted = [r for r in rows if r["in_model"] and np.isfinite(r["objective_s"])]
    closed = [r for r in counted if r["above_optimum"] is not None]
    bounded = [r for r in counted if r["lower_bound_s"] is not None]
    responses = np.concatenate([o.responses[name] for o in outcomes if name in o.responses])

    def total(some: list[dict[str, Any]], column: str) -> float | None:
        return float(sum(r[column] for r in some)) if some else None

    objective, bound = total(bounded, "objective_s"), total(bounded, "lower_bound_s")
    reached, optimum = total(closed, "objective_s"), total(closed, "optimum_s")
    return {
        "name": name,
        "windows": len(outcomes),
        "in_model": len(counted),
        "closed": len(closed),
        "objective_s": objective,
        "lower_bound_s": bound,
        "gap_to_bound": None
        if objective is None or bound is None
        else relative_gap(objective, bound),
        "above_optimum": reached / optimum - 1 if reached and optimum else None,
        "above_optimum_worst": max((r["above_optimum"] for r in closed), default=None),
        "actual_objective_s": total(rows, "actual_objective_s"),
        "response_p50_s": percentile(responses, 50),
        "response_p95_s": percentile(responses, 95),
        "response_p99_s": percentile(responses, 99),
        "slo_attainment_5x": attainment(responses, 5 * unit),
        "bubble_rate": float(np.mean([r["bubble_rate"] for r in rows])),
        "nodes_used": float(np.mean([r["nodes_used"] for r in rows])),
        **{note: _in_windows(rows, note) for note in NOTES},
    }


def _in_windows(rows: list[dict[str, Any]], note: str) -> str:
    """Return the first window's note, with how many others have one; "" for none."""
    said = [(row["window"], row[note]) for row in rows if row[note]]
    if not said:
        return ""
    number, text = said[0]
    more = f" ({len(said) - 1} more windows)" if len(said) > 1 else ""
    return f"window {number}: {text}{more}"
