"""A recorded run of a serving engine, replayed with predicted iterations, and where it errs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from experiments.serving_limits import ServingLimits, fit_limits
from experiments.serving_measures import (
    Measure,
    Served,
    StepTimes,
    mean_errors,
    measures,
    step_times,
)
from lemix_opt.checks import FloatArray
from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError
from lemix_opt.generated import Generated
from lemix_opt.generation import Generation, IterationCosts
from lemix_opt.instance import Instance
from lemix_opt.policy import FixedAssignment
from lemix_opt.recording import Recording
from lemix_opt.table import Table
from lemix_opt.workload import Workload
from predictors.kernels import PER_LAYER, KernelCosts, fit_kernels
from predictors.model_shapes import ModelShape


@dataclass(frozen=True)
class Replay:
    """A replay under one set of assumptions.

    Parameters
    ----------
    name : str
        What differs from the primary replay.
    measures : tuple of Measure
        See `measures`.
    mean_error_pct : dict of str to float
        Mean absolute error by request, in percent of the recorded mean.
    preemptions, iterations : int
        What the replay did.
    """

    name: str
    measures: tuple[Measure, ...]
    mean_error_pct: dict[str, float]
    preemptions: int
    iterations: int


@dataclass(frozen=True)
class ServingReplay:
    """All that `replay_serving` finds.

    Parameters
    ----------
    limits : ServingLimits
        Fitted on the time series.
    kernels : KernelCosts
        Fitted on the profile.
    primary : Replay
        With iterations of the profile alone.
    others : tuple of Replay
        One assumption changed at a time.
    steps : StepTimes, optional
        The time model apart from everything else; None without samples of it.
    overhead_s : float
        Seconds per iteration that the profile lacks, fitted on the first third of the recording;
        one of `others` has it added.
    requests, left_out : int
        Replayed, and without a last token.
    """

    limits: ServingLimits
    kernels: KernelCosts
    primary: Replay
    others: tuple[Replay, ...]
    steps: StepTimes | None
    overhead_s: float
    requests: int
    left_out: int


def recorded_requests(recording: Recording) -> tuple[Served, Workload]:
    """Return the requests that were served to the end, in order of arrival, and their workload.

    Raises
    ------
    FieldError
        If there are none.
    """
    table = recording.requests
    done = np.isfinite(table["last_token_s"]) & (table["output_tokens"] > 0)
    rows = np.flatnonzero(done)
    rows = rows[np.argsort(table["queued_s"][rows], kind="stable")]
    if not rows.size:
        raise FieldError("no request was served to the end", where="requests", expected="some")
    queued, scheduled, first, last = (
        table[name][rows] for name in ("queued_s", "scheduled_s", "first_token_s", "last_token_s")
    )
    zero = float(queued[0])
    served = Served(
        queued - zero,
        scheduled - zero,
        first - zero,
        last - zero,
        table["output_tokens"][rows].astype(np.float64),
    )
    work = Workload(
        np.zeros(rows.size, dtype=np.int64),
        served.queued_s,
        np.ones(rows.size, dtype=np.int64),
        table["prompt_tokens"][rows],
        table["output_tokens"][rows],
    )
    return served, work


def run(
    work: Workload, costs: IterationCosts, rule: Generation, kv_tokens: float
) -> tuple[Served, Generated]:
    """Serve requests on one node of one stage whose KV cache holds `kv_tokens`."""
    tokens = work.prompt_tokens
    lacking = np.flatnonzero(rule.held_tokens(tokens, work.output_tokens) > kv_tokens)
    if lacking.size:
        task = int(lacking[0])
        raise FieldError(
            f"{kv_tokens:.0f} tokens",
            where="limits.kv_tokens",
            expected=f"room for request {task} with {work.prompt_tokens[task]} prompt and "
            f"{work.output_tokens[task]} output tokens",
        )
    forward = costs.seconds(0, tokens, tokens**2)[None]
    nothing = np.zeros_like(forward)
    whole = Costs(forward, nothing, nothing, np.zeros((1, 1)), iteration=costs)
    memory = kv_tokens * costs.kv_bytes_per_token
    instance = Instance(Cluster(1, 1, memory), work, whole, generation=rule)
    schedule = simulate(instance, FixedAssignment((0,) * work.tasks))
    made = schedule.generated
    assert made is not None
    served = Served(
        work.release_s,
        scheduled_s(made, work.release_s, rule.ahead),
        made.first_token_s,
        made.last_token_s,
        made.tokens.astype(np.float64),
    )
    return served, made


def scheduled_s(made: Generated, release_s: FloatArray, ahead: bool) -> FloatArray:
    """Return when requests were put into an iteration, shape (T,).

    Formed ahead, an iteration is made of who was there when the one before started; who came later
    is in it only if there was nothing else to do.
    """
    if not ahead:
        return made.start_s
    starts, ends = made.iterations.start_s[:, 0], made.iterations.end_s[:, -1]
    at = np.searchsorted(starts, made.start_s)
    before = np.maximum(at - 1, 0)
    follows = (at > 0) & (ends[before] == made.start_s) & (release_s <= starts[before])
    return np.asarray(np.where(follows, starts[before], made.start_s))


def replay_serving(
    recording: Recording,
    attention: Table,
    dense: Table,
    per_sequence: Table,
    shape: ModelShape,
    *,
    per_layer: Mapping[str, int] = PER_LAYER,
    limits: ServingLimits | None = None,
) -> ServingReplay:
    """Replay a recorded vLLM run with iteration times of a kernel profile alone.

    Arrivals and lengths are the recorded ones. Limits that the log does not state are estimated
    from the time series (`fit_limits`); no error of the replay goes into them.

    Parameters
    ----------
    recording : Recording
        Requests and the engine's time series.
    attention, dense, per_sequence : Table
        Kernel times, see `predictors.kernels.fit_kernels`.
    shape : ModelShape
        The model that was served, on one GPU.
    per_layer : mapping of str to int
        Runs of dense kernels in a transformer layer.
    limits : ServingLimits, optional
        Where the server's settings are known.

    Returns
    -------
    ServingReplay
        Limits, errors, and the same with one assumption changed at a time.
    """
    found = fit_limits(recording) if limits is None else limits
    kv = found.kv_tokens
    kernels = fit_kernels(
        attention, dense, per_sequence, shape, most_context=kv.value, per_layer=per_layer
    )
    recorded, work = recorded_requests(recording)
    rule = Generation(
        batch_cap=int(found.batch_cap.value),
        chunk_tokens=max(int(found.chunk_tokens.value), int(found.batch_cap.value)),
        ahead=bool(found.ahead.value),
        keep_prefix=True,
    )

    def again(
        name: str,
        costs: IterationCosts = kernels.costs,
        rule: Generation = rule,
        kv_tokens: float = kv.value,
        at_s: FloatArray | None = None,
    ) -> Replay:
        mine = work if at_s is None else replace(work, release_s=at_s)
        served, made = run(mine, costs, rule, kv_tokens)
        # Under recorded admissions, what happened before them is taken as recorded.
        served = replace(served, queued_s=recorded.queued_s)
        if at_s is not None:
            served = replace(served, scheduled_s=np.maximum(served.scheduled_s, at_s))
        return Replay(
            name,
            measures(recorded, served),
            mean_errors(recorded, served),
            int(made.preemptions.sum()),
            made.iterations.rows,
        )

    third_s = float(recorded.last_s.max()) / 3
    early = step_times(recording, kernels.costs, kv.value, third_s)
    overhead = 0.0 if early is None else max(early.recorded_s - early.predicted_s, 0.0)
    slower = replace(kernels.costs, base_s=kernels.costs.base_s + overhead)
    error = kernels.mape_pct["decodes alone"] / 100
    others = (
        again("queueing rule: scheduled when recorded", at_s=recorded.scheduled_s),
        again(
            "queueing rule: iterations formed " + ("after each other" if rule.ahead else "ahead"),
            rule=replace(rule, ahead=not rule.ahead),
        ),
        again("queueing rule: whole second prefill", rule=replace(rule, keep_prefix=False)),
        again("limits: KV capacity low", kv_tokens=kv.low),
        again("limits: KV capacity high", kv_tokens=kv.high),
        again("time model: faster by its error", costs=kernels.costs.scaled(np.array([1 - error]))),
        again("time model: slower by its error", costs=kernels.costs.scaled(np.array([1 + error]))),
        again("time model: overhead fitted on the recording", costs=slower),
    )
    return ServingReplay(
        found,
        kernels,
        again("profile alone"),
        others,
        step_times(recording, kernels.costs, kv.value),
        overhead,
        work.tasks,
        recording.requests.rows - work.tasks,
    )
