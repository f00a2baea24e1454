"""Replay: the same decisions, or another policy, under the costs that really happened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, choice
from lemix_opt.engine.run import simulate
from lemix_opt.errors import UnsupportedError
from lemix_opt.evaluation import Score, evaluate
from lemix_opt.policy import Policy
from lemix_opt.rerun import rerun
from lemix_opt.schedule import Schedule
from lemix_opt.trace import Trace

TIMINGS = ("order", "planned")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a replay.

    Parameters
    ----------
    schedule : Schedule
        What happened under the trace's actual costs.
    score : Score
        Its metrics.
    truth : {"recorded", "profile", "synthetic"}
        Where the actual costs come from.
    provenance : str
        Source and assumptions behind them.
    end_shift_s : ndarray, shape (T,), optional
        Actual minus planned end of every task; NaN for tasks that are not done in both. None for
        the replay of a policy, which has no plan.
    """

    schedule: Schedule
    score: Score
    truth: str
    provenance: str
    end_shift_s: FloatArray | None = None


def replay(
    trace: Trace,
    policy_or_schedule: Policy | Schedule,
    timing: str = "order",
    time_model: object | None = None,
    memory_model: object | None = None,
    seed: int = 0,
) -> Outcome:
    """Run a policy, or repeat the decisions of a schedule, under a trace's actual costs.

    Parameters
    ----------
    trace : Trace
        Tasks, rules, predicted and actual costs.
    policy_or_schedule : Policy or Schedule
        A policy decides anew and sees predicted costs only. A schedule keeps its nodes and the
        order of operations on every GPU.
    timing : {"order", "planned"}, default "order"
        Of a schedule's operations: start as early as the order allows, or also not before their
        planned start. ``planned`` reproduces a schedule on the costs it was made with, ``order``
        every left-shifted one.
    time_model, memory_model : None
        Predictions other than the trace's own are not replayed yet.
    seed : int, default 0
        Seed of the policy's generator.

    Returns
    -------
    Outcome
        Tasks whose actual memory does not fit when their turn comes are dropped as out-of-memory
        events.

    Raises
    ------
    FieldError
        If a schedule does not belong to the trace.
    UnsupportedError
        If a model is given.
    """
    choice("timing", timing, TIMINGS)
    for name, given in (("time_model", time_model), ("memory_model", memory_model)):
        if given is not None:
            raise UnsupportedError(
                f"{name} is not replayed yet",
                where=name,
                expected="None",
                hint="Build the trace's instance from estimate_costs with that model instead",
            )
    instance = trace.instance
    shift = None
    if isinstance(policy_or_schedule, Schedule):
        plan = policy_or_schedule
        done = rerun(instance, plan, trace.actual, planned=timing == "planned")
        planned, actual = plan.end_s(), done.end_s()
        both = np.isfinite(planned) & np.isfinite(actual)
        shift = np.full(instance.tasks, np.nan)
        shift[both] = actual[both] - planned[both]
    else:
        done = simulate(instance, policy_or_schedule, trace.actual, seed)
    return Outcome(done, evaluate(instance, done), trace.truth, trace.provenance, shift)
