"""Regret of a policy: what wrong predictions cost it, and what its decisions cost it.

All values J are on actual costs (DESIGN section 6: prediction, decision, online share):

- prediction = J(policy with predicted costs) - J(policy with true costs)
- decision = J(policy with true costs) - J(clairvoyant optimum), an interval where only a bound
  of the optimum is known
- of which online = J(exact plans that see arrivals only at their release) - J(clairvoyant optimum)

Negative terms are shown as they are: a wrong prediction may lead to a better schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan

from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError, InfeasibleError
from lemix_opt.evaluation import objective_value
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.policy import Policy
from lemix_opt.schedule import Schedule
from lemix_opt.trace import Trace

Interval = tuple[float, float]


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
    """

    policy: str
    predicted_s: float
    informed_s: float
    prediction_s: float
    decision_s: Interval
    online_s: Interval


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

    Raises
    ------
    FieldError
        For a lexicographic objective.
    UnsupportedError
        If the trace's rules lie outside the exact model.
    InfeasibleError
        If no schedule was found.
    """
    from solvers import solve

    if objective.lexicographic:
        raise FieldError(
            "a lexicographic objective",
            where="objective",
            expected="a weighted one: regrets are differences of seconds",
        )
    true = trace.instance.with_costs(trace.actual)
    common = (objective, time_limit_s, deterministic_limit, seed, workers)
    online = solve(true, "reoptimise", *common)
    found = solve(true, "portfolio", *common, initial=online.schedule)
    if found.schedule is None:
        raise InfeasibleError(
            f"no schedule of {true.tasks} tasks was found ({found.explanation})", where="trace"
        )
    best = _value(true, found.schedule, objective)
    proven, bound = found.status == "optimal", found.lower_bound
    return Clairvoyant(
        best,
        best if proven else bound if isinstance(bound, float) else float("-inf"),
        proven,
        None if online.schedule is None else _value(true, online.schedule, objective),
        online.explanation,
    )


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
        rows.append(
            Regret(
                name,
                j_predicted,
                j_informed,
                j_predicted - j_informed,
                optimum.above(j_informed),
                optimum.above(nan if optimum.online_s is None else optimum.online_s),
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
        )
        for rows in zip(*windows, strict=True)
    )


def _sum(intervals: Iterable[Interval]) -> Interval:
    known = list(intervals)
    return sum(i[0] for i in known), sum(i[1] for i in known)
