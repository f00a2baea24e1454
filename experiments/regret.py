"""Regret of a policy: what wrong predictions cost it, and what its decisions cost it.

All values J are on actual costs (DESIGN section 6: prediction, decision, online share):

- prediction = J(policy with predicted costs) - J(policy with true costs)
- decision = J(policy with true costs) - J(clairvoyant optimum), an interval where only a bound
  of the optimum is known
- of which online = J(exact plans that see arrivals only at their release) - J(clairvoyant optimum)

Negative terms are shown as they are: a wrong prediction may lead to a better schedule.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import floor, inf, log10, nan

import numpy as np

from lemix_opt.beyond import beyond_exact_model
from lemix_opt.checks import floats
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError, InfeasibleError, LemixError
from lemix_opt.evaluation import objective_value
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.policy import Policy
from lemix_opt.replaying import replay
from lemix_opt.result import Result
from lemix_opt.schedule import Schedule
from lemix_opt.trace import Trace

Interval = tuple[float, float]
_GRID = 100.0
"""Ticks of the shortest operation, at least, where costs lie on no grid of their own."""
_LEAST = 1e-3
"""Part of the budget that the windows left share where it is used up."""
_LEAST_TICK_S = 1e-8
"""Ten times what `validate` tolerates."""
_REOPTIMISED = 0.5
"""Part of a window's time that plans without foresight take at most."""


@dataclass(frozen=True)
class Clairvoyant:
    """The optimum on actual costs, or what is known of it.

    Parameters
    ----------
    best_s, bound_s : float
        Best schedule known and proven bound, in seconds of the objective.
    proven : bool
        Whether they agree.
    online_s : float or None
        Value of exact plans that see a task only at its release; None where none was found.
    online_note : str
        How many of these plans are proven.
    """

    best_s: float
    bound_s: float
    proven: bool
    online_s: float | None
    online_note: str

    def above(self, value_s: float) -> Interval:
        """Least and most by which a value lies above the optimum."""
        return value_s - self.best_s, value_s - self.bound_s


@dataclass(frozen=True)
class Regret:
    """Regret of one policy, in seconds of the objective.

    Parameters
    ----------
    policy : str
        Its name.
    predicted_s, informed_s : float
        Its value with predicted and with true costs.
    prediction_s : float
        What predictions cost.
    decision_s : (float, float)
        What decisions cost, at least and at most.
    online_s : (float, float)
        Part of it that no rule can avoid which does not know the future, as far as exact plans
        without that knowledge show it; NaN where none were found.
    outside : str, default ""
        Why its schedule lies outside the exact model; `decision_s` is NaN then.
    """

    policy: str
    predicted_s: float
    informed_s: float
    prediction_s: float
    decision_s: Interval
    online_s: Interval
    outside: str = ""


def clairvoyant(
    trace: Trace,
    objective: Objective,
    *,
    time_limit_s: float = 60.0,
    deterministic_limit: float | None = None,
    workers: int = 1,
    seed: int = 0,
) -> Clairvoyant:
    """Solve a trace on its actual costs, with all arrivals known and with arrivals unknown.

    Costs that are no whole ticks are planned on a grid of a hundredth of the shortest operation or
    finer, times rounded up for plans and down for the bound; the plans are then replayed as early
    as the costs themselves allow.

    Parameters
    ----------
    trace : Trace
        The problem, and its actual costs.
    objective : Objective
        Weighted.
    time_limit_s : float, default 60
        Wall seconds of both solvers together. Ignored under a deterministic limit.
    deterministic_limit : float, optional
        Limit in the solvers' own time, for repeatable tables.
    workers, seed : int
        Of the solvers.

    Raises
    ------
    FieldError
        For a lexicographic objective.
    UnsupportedError
        If the trace's rules lie outside the exact model.
    InfeasibleError
        If no schedule was found.
    KeyboardInterrupt
        If a solver was interrupted.
    """
    from solvers import solve

    if objective.lexicographic:
        raise FieldError(
            "a lexicographic objective",
            where="objective",
            expected="a weighted one: regrets are differences of seconds",
        )
    true = _on_fine_grid(trace.instance.with_costs(trace.actual))
    common = (deterministic_limit, seed, workers)
    limit_s = time_limit_s if deterministic_limit is None else inf
    begin = time.perf_counter()
    online = solve(true, "reoptimise", objective, _REOPTIMISED * limit_s, *common)
    _pass_on_interrupt(online)
    left_s = max(limit_s - (time.perf_counter() - begin), (1 - _REOPTIMISED) * limit_s)
    found = solve(true, "portfolio", objective, left_s, *common, initial=online.schedule)
    _pass_on_interrupt(found)
    if found.schedule is None:
        raise InfeasibleError(
            f"no schedule of {true.tasks} tasks was found ({found.explanation})", where="trace"
        )
    best = min(
        _earliest(true, schedule, objective)
        for schedule in (found.schedule, online.schedule)
        if schedule is not None
    )
    proven, bound = found.status == "optimal", found.lower_bound
    return Clairvoyant(
        best,
        best if proven else bound if isinstance(bound, float) else float("-inf"),
        proven,
        None if online.schedule is None else _earliest(true, online.schedule, objective),
        online.explanation,
    )


def _on_fine_grid(instance: Instance) -> Instance:
    """Return the instance with a tick that rounds little, its own where costs are whole ticks."""
    costs = instance.costs
    times = [costs.forward_s, costs.backward_s, costs.update_s, costs.hop_s]
    seconds = np.concatenate([np.ravel(t) for t in (*times, instance.workload.release_s)])
    ticks = seconds / instance.tick_s
    if np.all(np.abs(ticks - np.round(ticks)) < 1e-6):
        return instance
    wanted = float(costs.forward_s.min()) / _GRID
    tick_s = max(10.0 ** floor(log10(wanted)), _LEAST_TICK_S)
    return replace(instance, tick_s=min(instance.tick_s, tick_s))


def _earliest(instance: Instance, schedule: Schedule, objective: Objective) -> float:
    """Value of a schedule, or of the same one as early as its order allows if that is less."""
    run = Trace(instance, instance.costs, "synthetic", "a plan on the actual costs")
    try:
        early = replay(run, schedule).schedule
    except LemixError:
        # A valid plan cannot be followed only where operations without length start at once, so
        # that their order is not in it; as planned it still stands.
        return _value(instance, schedule, objective)
    return min(_value(instance, plan, objective) for plan in (schedule, early))


def _pass_on_interrupt(result: Result) -> None:
    """Solvers answer Ctrl-C with the best so far; here it ends the whole run."""
    if result.interrupted:
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Window:
    """Regrets within one window of a run.

    Parameters
    ----------
    number, tasks : int
        Which window, from 0 on, and how many tasks it has.
    optimum : Clairvoyant
        What is known of the optimum.
    rows : tuple of Regret
        One per policy.
    """

    number: int
    tasks: int
    optimum: Clairvoyant
    rows: tuple[Regret, ...]


def regrets(
    windows: Sequence[Trace],
    policies: Sequence[tuple[str, Policy]],
    objective: Objective,
    *,
    budget_s: float = 60.0,
    deterministic_limit: float | None = None,
    seed: int = 0,
) -> Iterator[Window]:
    """Judge policies window by window; each window is yielded when it is done.

    Parameters
    ----------
    windows : sequence of Trace
        See `experiments.windows.cut`.
    policies, objective
        See `regret`.
    budget_s : float, default 60
        Wall seconds of all solvers on all windows. Every window gets an equal part of what is left.
    deterministic_limit : float, optional
        Limit of each solver on each window in its own time, instead of the budget.
    seed : int
        Of policies and solvers.
    """
    budget_s = float(floats("budget_s", budget_s, (), above=0))
    until = time.perf_counter() + budget_s
    for number, part in enumerate(windows):
        left_s = max(until - time.perf_counter(), _LEAST * budget_s)
        optimum = clairvoyant(
            part,
            objective,
            time_limit_s=left_s / (len(windows) - number),
            deterministic_limit=deterministic_limit,
            seed=seed,
        )
        rows = regret(part, policies, objective, optimum, seed)
        yield Window(number, part.instance.tasks, optimum, rows)


def regret(
    trace: Trace,
    policies: Sequence[tuple[str, Policy]],
    objective: Objective,
    optimum: Clairvoyant,
    seed: int = 0,
) -> tuple[Regret, ...]:
    """Split the distance of policies from the clairvoyant optimum.

    Parameters
    ----------
    trace : Trace
        Predicted costs are those of its instance, actual costs its own.
    policies : sequence of (str, Policy)
        What is judged.
    objective : Objective
        Weighted, not lexicographic: regrets are differences of seconds.
    optimum : Clairvoyant
        Of the same trace and objective.
    """
    true = trace.instance.with_costs(trace.actual)
    rows = []
    for name, policy in policies:
        predicted = simulate(trace.instance, policy, actual=trace.actual, seed=seed)
        informed = simulate(true, policy, seed=seed)
        j_predicted = _value(true, predicted, objective)
        j_informed = _value(true, informed, objective)
        outside = beyond_exact_model(true, informed)
        rows.append(
            Regret(
                name,
                j_predicted,
                j_informed,
                j_predicted - j_informed,
                optimum.above(nan if outside else j_informed),
                optimum.above(nan if optimum.online_s is None else optimum.online_s),
                outside,
            )
        )
    return tuple(rows)


def _value(instance: Instance, schedule: Schedule, objective: Objective) -> float:
    value = objective_value(instance, schedule, objective)
    assert isinstance(value, float)
    return value


def total(windows: Sequence[tuple[Regret, ...]]) -> tuple[Regret, ...]:
    """Add up the regrets of the same policies over windows of a run."""
    return tuple(
        Regret(
            rows[0].policy,
            sum(r.predicted_s for r in rows),
            sum(r.informed_s for r in rows),
            sum(r.prediction_s for r in rows),
            _sum(r.decision_s for r in rows),
            _sum(r.online_s for r in rows),
            next((r.outside for r in rows if r.outside), ""),
        )
        for rows in zip(*windows, strict=True)
    )


def _sum(intervals: Iterable[Interval]) -> Interval:
    known = list(intervals)
    return sum(i[0] for i in known), sum(i[1] for i in known)
