"""The gate every result passes: what it claims must hold by means that share no code with it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from lemix_opt.errors import InternalError
from lemix_opt.evaluation import objective_value
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.plain import INSTANCE_HEADER, columns_to_plain
from lemix_opt.resolution import Resolution
from lemix_opt.result import Result
from lemix_opt.validation import validate
from solvers.incumbent import levels_of

CLAIMS = ("optimal", "feasible")
"""Statuses that say there is a schedule which keeps all rules."""
AGREEMENT = 1e-9
"""Relative distance at which a reported objective counts as that of its schedule."""


def checked(instance: Instance, objective: Objective, result: Result) -> Result:
    """Return a result whose claims hold.

    Its schedule must keep every rule by `lemix_opt.validate`, its objective must be the one of its
    schedule, and no bound may lie above it.

    Parameters
    ----------
    instance, objective
        What was solved.
    result : Result
        What a solver returned.

    Returns
    -------
    Result
        The same, with bounds that exceed the objective by less than counts cut to it.

    Raises
    ------
    InternalError
        If a claim does not hold. The instance is written to a file that the error names.
    """
    fault = _fault(instance, objective, result)
    if fault is not None:
        raise InternalError(
            f"{result.solver} returned a result that does not hold: {fault}",
            where=f"instance of {instance.tasks} tasks, written to {_written(instance)}",
            hint=f"This is a fault of the toolkit; report it with that file, {objective}, "
            f"seed {result.seed} and parameters {result.parameters}",
        )
    if result.objective is None or result.lower_bound is None:
        return result
    values, lows = levels_of(result.objective), levels_of(result.lower_bound)
    cut = tuple(min(b, v) for b, v in zip(lows, values, strict=True))
    if cut == lows:
        return result
    return replace(result, lower_bound=cut if isinstance(result.lower_bound, tuple) else cut[0])


def _fault(instance: Instance, objective: Objective, result: Result) -> str | None:
    if result.status == "infeasible":
        return "every instance has a schedule, its tasks one after the other"
    if result.status not in CLAIMS:
        return None
    resolution = Resolution.of(instance, objective)
    if result.schedule is None or result.objective is None:
        return f"status {result.status!r} without a schedule"
    violations = validate(instance, result.schedule)
    if violations:
        return f"its schedule breaks a rule: {violations[0].message}"
    values = levels_of(result.objective)
    again = levels_of(objective_value(instance, result.schedule, objective))
    if len(again) != len(values):
        return f"its objective has {len(values)} levels, not {len(again)}"
    for level, (own, value) in enumerate(zip(values, again, strict=True)):
        unit = resolution.unit[level]
        if not abs(own - value) <= max(unit, AGREEMENT * abs(value)):
            return f"it reports {own!r} s on level {level}, its schedule is worth {value!r} s"
    if result.lower_bound is None:
        return "status 'optimal' without a bound" if result.status == "optimal" else None
    lows = levels_of(result.lower_bound)
    proven = True
    for level, (low, value) in enumerate(zip(lows, values, strict=True)):
        # A level's bound holds given the levels before it, which a worse schedule may exceed.
        if proven and low - value > max(resolution.unit[level], AGREEMENT * abs(value)):
            return f"its bound {low!r} s exceeds its objective {value!r} s on level {level}"
        proven = proven and resolution.proven(value, low, level)
    if result.status == "optimal" and not proven:
        return f"it is called optimal with bounds {lows} s and values {values} s"
    return None


def _written(instance: Instance) -> Path:
    """Write an instance file for a report; return its path."""
    handle, name = tempfile.mkstemp(prefix="lemix-report-", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(INSTANCE_HEADER | columns_to_plain(instance), file)
    return Path(name)
