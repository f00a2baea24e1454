"""Score a policy or a schedule against what really happened: recorded or profiled costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, choice
from lemix_opt.cost_model import CostModel, mixed_costs
from lemix_opt.costs import Costs
from lemix_opt.decision_clock import DecisionClock
from lemix_opt.engine import simulate
from lemix_opt.engine.follow import follow
from lemix_opt.engine.planned import (
    NO_BEGINNING,
    NO_PLACE,
    OTHER_NODE,
    RIGHT,
    Layout,
    layout_of,
)
from lemix_opt.errors import FieldError
from lemix_opt.evaluation import Score, evaluate
from lemix_opt.instance import Instance
from lemix_opt.policy import Policy
from lemix_opt.schedule import DONE, PHASES, Schedule
from lemix_opt.trace import Trace

TIMINGS = ("order", "planned")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a replay.

    Parameters
    ----------
    schedule : Schedule
        What was executed.
    score : Score
        Its metrics.
    truth : {"recorded", "profile", "synthetic"}
        Where the costs come from, as in the trace; ``synthetic`` where a model predicts them.
    provenance : str
        Source and assumptions behind the actual costs.
    end_shift_s : ndarray, shape (T,), or None
        Seconds by which every task ended later than planned: infinity for a task that was planned
        to be done and is not, NaN for one that was not planned to be. None for policies.
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
    time_model: CostModel | None = None,
    memory_model: CostModel | None = None,
    seed: int = 0,
    clock: DecisionClock | None = None,
) -> Outcome:
    """Execute a policy or a schedule under the actual costs of a trace.

    A schedule keeps its placement and the order in which every GPU starts its operations. A
    training task follows the closed loop unless the schedule stores an earlier release for it, as
    recorded runs may; then the stored one stands. A deferred training task gives up its place in
    the loop when it did so in the schedule, but not before its release nor after its start. A
    forward whose memory is not free when its turn comes, while nothing before it can free any, is
    an out-of-memory event: the task is dropped, what it holds is freed, and the others go on.
    Tasks that the schedule has not done run as far as it ran them and keep their state.

    Parameters
    ----------
    trace : Trace
        Instance and actual costs.
    policy_or_schedule : Policy or Schedule
        A policy is simulated; a schedule is executed.
    timing : {"order", "planned"}, default "order"
        Start every operation of a schedule as early as possible, or also not before its planned
        start. On the costs it was made with, "planned" reproduces a schedule exactly.
    time_model, memory_model : CostModel, optional
        Predict the seconds, or the bytes, that tasks take in place of those of the trace. The same
        decisions under predicted costs measure the predictor.
    seed : int, default 0
        Seed of the generator handed to a policy.
    clock : DecisionClock, optional
        Measures the wall time of a policy's decisions; a schedule takes none.

    Returns
    -------
    Outcome
        Executed schedule, its score and the shift of every task's end in seconds.

    Raises
    ------
    UnsupportedError
        For rules that are not executed.
    FieldError
        If the schedule does not fit the instance, or a model is none.
    LemixError
        If the orders of the GPUs, the chains and the closed loop wait for each other in a cycle.
    """
    choice("timing", timing, TIMINGS)
    trace = _predicted(trace, time_model, memory_model)
    instance, shift = trace.instance, None
    if isinstance(policy_or_schedule, Schedule):
        plan = policy_or_schedule
        layout = _checked_layout(instance, trace.actual, plan)
        executed = follow(instance, trace.actual, plan, layout, timing == "planned")
        shift = np.full(instance.tasks, np.nan)
        planned = plan.end_state == DONE
        shift[planned] = executed.end_s()[planned] - plan.end_s()[planned]
        shift.flags.writeable = False
    elif not isinstance(policy_or_schedule, Policy):
        raise FieldError(
            f"a {type(policy_or_schedule).__name__}",
            where="policy_or_schedule",
            expected="a Schedule, or a Policy with start, decide and observe",
        )
    elif timing == "planned":
        raise FieldError("'planned' for a policy", where="timing", expected="'order': no plan")
    else:
        executed = simulate(instance, policy_or_schedule, trace.actual, seed, clock)
    score = evaluate(instance, executed)
    return Outcome(executed, score, trace.truth, trace.provenance, shift)


def _predicted(trace: Trace, time_model: CostModel | None, memory_model: CostModel | None) -> Trace:
    """Return the trace with costs out of models, which say so."""
    given = {"times": time_model, "memory": memory_model}
    models = {what: model for what, model in given.items() if model is not None}
    for what, model in models.items():
        if not isinstance(model, CostModel):
            raise FieldError(
                f"a {type(model).__name__}",
                where="time_model" if what == "times" else "memory_model",
                expected="an object with costs(instance), such as predictors.TraceCostModel",
            )
    if not models:
        return trace
    actual = mixed_costs(trace.instance, trace.actual, time_model, memory_model)
    said = "; ".join(f"{what} predicted by {model}" for what, model in models.items())
    text = f"{said}; everything else: {trace.truth}, {trace.provenance}"
    return Trace(trace.instance, actual, "synthetic", text, trace.schedule)


def _checked_layout(instance: Instance, actual: Costs, plan: Schedule) -> Layout:
    """Return the layout; raise `FieldError` unless every item ran a beginning of its chain."""
    instance.require_plain_rules("is not replayed", ("pipeline",))
    if plan.tasks != instance.tasks:
        raise FieldError(f"{plan.tasks} tasks", where="schedule", expected=f"{instance.tasks}")
    nodes = instance.cluster.nodes
    if plan.tasks and int(plan.node.max()) >= nodes:
        task = int(np.argmax(plan.node >= nodes))
        expected = f"a node below {nodes}"
        raise FieldError(f"{plan.node[task]}", where=f"node[{task}]", expected=expected)
    layout, found, at = layout_of(instance, actual, plan)
    if found == NO_BEGINNING:
        raise _no_beginning(plan, at)
    if found != RIGHT:
        raise _misplaced(instance, plan, found, at)
    return layout


def _no_beginning(plan: Schedule, task: int) -> FieldError:
    o = plan.operations
    own = np.flatnonzero(o.task == task)
    ran = zip(o.phase[own].tolist(), o.stage[own].tolist(), strict=True)
    names = ", ".join(f"{PHASES[phase]} {s}" for phase, s in ran) or "nothing"
    return FieldError(
        f"task {task} runs {names}",
        where="schedule.operations",
        expected="every operation of a done task, a beginning of the chain of any other",
    )


def _misplaced(instance: Instance, plan: Schedule, found: int, row: int) -> FieldError:
    """Return the error for an operation that is where it cannot be, or comes twice."""
    o, where = plan.operations, f"operations[{row}]"
    task, stage = int(o.task[row]), int(o.stage[row])
    if found == OTHER_NODE:
        expected = f"{plan.node[task]} as in node[{task}]"
        return FieldError(f"node {o.node[row]}", where=where, expected=expected)
    if found == NO_PLACE:
        parts = instance.micro_batches if instance.workload.is_training[task] else 1
        stages = instance.cluster.stages
        expected = f"a stage below {stages} and a micro-batch below {parts}, 0 for updates"
        text = f"stage {stage}, micro-batch {o.micro_batch[row]}"
        return FieldError(text, where=where, expected=expected)
    text = f"a second {PHASES[int(o.phase[row])]} of task {task} on stage {stage}"
    return FieldError(text, where=where, expected="one for every micro-batch")
