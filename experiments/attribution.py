"""Why a replay differs from a recording: one thing at a time is taken from the model.

The steps go from the recording to a run that is modelled throughout. Every step changes one thing
only, so that the differences add up to the whole error:

======================  ==========================================================================
step                    what is taken from the model from here on
======================  ==========================================================================
recorded                nothing: the clocks of the recording
costs                   when operations end: their recorded costs from their recorded starts
waiting                 when they start: as early as the recorded order and costs allow
queueing rule           their order on a GPU, by the rule of the instance; releases as recorded
workload                when training is released: by the closed loop, not as recorded
time model              what operations take: predicted costs, scaled to the sum of recorded ones
speed                   how fast the machine was throughout: predicted costs as they are
======================  ==========================================================================

Decisions of a closed loop amplify small differences of times, so that an error of a replay means
little without knowing how far two runs of the same decisions lie apart. `Expected` says it: the
metrics of runs whose costs are drawn as the model's own data scatter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lemix_opt.costs import Costs
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError
from lemix_opt.evaluation import response_s
from lemix_opt.instance import Instance
from lemix_opt.percentile import percentile
from lemix_opt.policy import FixedAssignment, Policy
from lemix_opt.replaying import replay
from lemix_opt.schedule import BACKWARD, FORWARD, UPDATE, Schedule
from lemix_opt.trace import Trace

METRICS = ("total_s", "response_mean_s", "response_p95_s", "training_mean_s")
"""Last end; mean and 95th percentile of the responses of requests; mean response of training."""


@dataclass(frozen=True)
class Step:
    """One step from the recording to the model.

    Parameters
    ----------
    name : str
        What this step takes from the model.
    value : dict of str to float
        Seconds, by metric.
    change : dict of str to float
        By how much they differ from the step before.
    """

    name: str
    value: dict[str, float]
    change: dict[str, float]


@dataclass(frozen=True)
class Counterfactual:
    """What a policy would have made of the recorded arrivals and costs.

    Parameters
    ----------
    policy : str
        Its name.
    value : dict of str to float
        Seconds, by metric.
    against_recorded_placement : dict of str to float
        Difference from the recorded placement under the same rules and costs, so that only the
        decisions differ.
    """

    policy: str
    value: dict[str, float]
    against_recorded_placement: dict[str, float]


@dataclass(frozen=True)
class Expected:
    """One metric over runs of the recorded decisions on drawn costs.

    Parameters
    ----------
    metric : str
        Out of `METRICS`.
    mean_s, low_s, high_s : float
        Mean, 5th and 95th percentile in seconds.
    draws : int
        How many runs.
    holds_recorded : bool
        Whether the recorded value lies between low and high.
    """

    metric: str
    mean_s: float
    low_s: float
    high_s: float
    draws: int
    holds_recorded: bool


@dataclass(frozen=True)
class Attribution:
    """Error of a replay, and gaps of policies.

    Parameters
    ----------
    steps : tuple of Step
        From the recording to the model.
    policies : tuple of Counterfactual
        On recorded arrivals and costs.
    expected : tuple of Expected
        By metric; none without drawn costs.
    truth, provenance : str
        As in the trace.
    """

    steps: tuple[Step, ...]
    policies: tuple[Counterfactual, ...]
    expected: tuple[Expected, ...]
    truth: str
    provenance: str

    def error(self, metric: str) -> float:
        """Relative error of the run that is modelled throughout."""
        first, last = (self.steps[k].value[metric] for k in (0, -1))
        return last / first - 1


def attribute(
    trace: Trace,
    policies: Sequence[tuple[str, Policy]] = (),
    seed: int = 0,
    drawn: Iterable[Costs] = (),
) -> Attribution:
    """Split the distance between a recording and its replay on predicted costs.

    Parameters
    ----------
    trace : Trace
        With the executed schedule, in which every task is done; predicted costs are those of its
        instance.
    policies : sequence of (str, Policy)
        For counterfactual runs on the recorded arrivals and costs.
    seed : int, default 0
        Seed of the policies.
    drawn : iterable of Costs
        Predicted costs as they may come out, see `predictors.TraceCostModel.draws`.

    Raises
    ------
    FieldError
        If the trace holds no complete schedule, or no tasks.
    UnsupportedError
        For rules that are not replayed.
    """
    instance, done = trace.instance, _executed(trace)
    recorded = FixedAssignment(tuple(done.node.tolist()))
    frozen = _released_as_recorded(instance, done)
    closed = simulate(instance, recorded, actual=trace.actual, seed=seed)
    runs = [
        ("recorded", done),
        ("costs", replay(trace, done, "planned").schedule),
        ("waiting", replay(trace, done, "order").schedule),
        ("queueing rule", simulate(frozen, recorded, actual=trace.actual, seed=seed)),
        ("workload", closed),
        ("time model", simulate(_as_fast(trace, done), recorded, seed=seed)),
        ("speed", simulate(instance, recorded, seed=seed)),
    ]
    others = [
        measures(instance, simulate(instance.with_costs(costs), recorded, seed=seed))
        for costs in drawn
    ]
    return Attribution(
        tuple(_steps(instance, runs)),
        tuple(
            Counterfactual(
                name,
                value := measures(instance, simulate(instance, policy, trace.actual, seed)),
                _difference(value, measures(instance, closed)),
            )
            for name, policy in policies
        ),
        tuple(_expected(name, others, measures(instance, done)) for name in METRICS if others),
        trace.truth,
        trace.provenance,
    )


def measures(instance: Instance, schedule: Schedule) -> dict[str, float]:
    """Return the metrics of a schedule in seconds; NaN where there is no such task."""
    response, work = response_s(instance, schedule), instance.workload
    requests, training = response[work.is_inference], response[work.is_training]
    found = (
        float(np.max(schedule.operations.end_s, initial=0.0)),
        float(requests.mean()) if requests.size else float("nan"),
        percentile(requests, 95),
        float(training.mean()) if training.size else float("nan"),
    )
    return dict(zip(METRICS, found, strict=True))


def _executed(trace: Trace) -> Schedule:
    done = trace.schedule
    if done is None or not done.complete:
        raise FieldError(
            "no schedule" if done is None else "tasks that are not done",
            where="trace.schedule",
            expected="what was executed, every task to its end",
            hint="Cut the trace to tasks that ended, or record one with 'lemix record'",
        )
    if not trace.instance.tasks:
        raise FieldError("no tasks", where="trace", expected="at least one")
    return done


def _released_as_recorded(instance: Instance, done: Schedule) -> Instance:
    """Return the instance with recorded effective releases and no closed loop."""
    work = instance.workload
    release_s = np.where(work.is_training, done.release_s, work.release_s)
    return replace(instance, workload=replace(work, release_s=release_s), release_mode="open")


def _as_fast(trace: Trace, done: Schedule) -> Instance:
    """Return the instance on predicted seconds whose sum is that of the recorded ones."""
    instance, actual, o = trace.instance, trace.actual, done.operations
    if actual.iteration is not None:
        # Who shares an iteration depends on its time, so that no sum is recorded to compare with.
        return instance
    costs = instance.costs
    k = instance.cluster.node_class[o.node]

    def work(of: Costs) -> float:
        by_phase = {FORWARD: of.forward_s, BACKWARD: of.backward_s}
        rows = ((phase, o.phase == phase) for phase in by_phase)
        run = sum(by_phase[p][k[m], o.task[m], o.stage[m]].sum() for p, m in rows)
        return float(run + of.closing_s[k, o.stage][o.phase == UPDATE].sum())

    speed = work(actual) / work(costs)
    seconds = ("forward_s", "backward_s", "update_s", "all_reduce_s")
    scaled = {name: getattr(costs, name) * speed for name in seconds}
    return instance.with_costs(replace(costs, **scaled))


def _expected(name: str, others: list[dict[str, float]], recorded: dict[str, float]) -> Expected:
    values = np.array([value[name] for value in others])
    low, high = percentile(values, 5), percentile(values, 95)
    return Expected(
        name, float(values.mean()), low, high, len(values), bool(low <= recorded[name] <= high)
    )


def _difference(value: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: value[name] - before[name] for name in METRICS}


def _steps(instance: Instance, runs: Iterable[tuple[str, Schedule]]) -> Iterable[Step]:
    before: dict[str, float] | None = None
    for name, schedule in runs:
        value = measures(instance, schedule)
        yield Step(name, value, _difference(value, before or value))
        before = value
