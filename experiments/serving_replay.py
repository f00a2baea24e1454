"""A recorded run of a serving engine, replayed with predicted iterations, and where it errs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from experiments.serving_limits import (
    LEAST_STEPS,
    ServingLimits,
    fit_limits,
    series,
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
from lemix_opt.token_metrics import percentile
from lemix_opt.workload import Workload
from predictors.kernels import PER_LAYER, KernelCosts, fit_kernels
from predictors.model_shapes import ModelShape

EARLY_S = 30.0
"""What counts as the beginning of a run, in seconds."""


@dataclass(frozen=True, eq=False)
class Served:
    """Requests as they were served, recorded or replayed; all columns of shape (R,), in seconds.

    Parameters
    ----------
    queued_s, scheduled_s, first_s, last_s : ndarray
        When a request came, was first put into an iteration, and had its first and last token.
    tokens : ndarray
        Tokens made.
    """

    queued_s: FloatArray
    scheduled_s: FloatArray
    first_s: FloatArray
    last_s: FloatArray
    tokens: FloatArray


@dataclass(frozen=True)
class Measure:
    """One figure of a run, recorded and replayed.

    Parameters
    ----------
    name : str
        Which, with its definition.
    recorded, replayed : float
        In seconds.
    """

    name: str
    recorded: float
    replayed: float

    @property
    def error_pct(self) -> float:
        """Replayed over recorded, less one, in percent."""
        return 100 * (self.replayed / self.recorded - 1)


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
class StepTimes:
    """Iterations that only decode, by the engine's own counters against the time model.

    Parameters
    ----------
    recorded_s, predicted_s : float
        Medians over the samples.
    error_pct : float
        Median of predicted over recorded, less one, in percent.
    samples : int
        Seconds in which nothing but decodes ran.
    """

    recorded_s: float
    predicted_s: float
    error_pct: float
    samples: int


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
    forward = costs.seconds(0, tokens, tokens**2)[None]
    nothing = np.zeros_like(forward)
    whole = Costs(forward, nothing, nothing, np.zeros((1, 1)), iteration=costs)
    memory = kv_tokens * costs.kv_bytes_per_token
    instance = Instance(Cluster(1, 1, memory), work, whole, generation=rule)
    schedule = simulate(instance, FixedAssignment((0,) * work.tasks))
    made = schedule.generated
    assert made is not None
    if not schedule.complete or schedule.out_of_memory:
        task = int(np.argmax(~np.isfinite(made.last_token_s)))
        raise FieldError(
            f"{kv_tokens:.0f} tokens",
            where="limits.kv_tokens",
            expected=f"room for request {task} with {work.prompt_tokens[task]} prompt and "
            f"{work.output_tokens[task]} output tokens",
        )
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


def measures(recorded: Served, replayed: Served) -> tuple[Measure, ...]:
    """Compare a replay with what was recorded, request for request the same set."""
    came_early = recorded.queued_s < EARLY_S
    served_early = recorded.first_s < EARLY_S

    def pair(name: str, figure: Mapping[str, float]) -> Measure:
        return Measure(name, figure["recorded"], figure["replayed"])

    both = {"recorded": recorded, "replayed": replayed}
    return (
        pair(
            "median first token - scheduled",
            {k: float(np.median(s.first_s - s.scheduled_s)) for k, s in both.items()},
        ),
        pair(
            f"median TTFT, first token recorded in the first {EARLY_S:.0f} s",
            {k: float(np.median((s.first_s - s.queued_s)[served_early])) for k, s in both.items()},
        ),
        pair(
            f"median TTFT, arrived in the first {EARLY_S:.0f} s",
            {k: float(np.median((s.first_s - s.queued_s)[came_early])) for k, s in both.items()},
        ),
        pair("p95 end-to-end", {k: percentile(s.last_s - s.queued_s, 95) for k, s in both.items()}),
        pair("total time", {k: float(s.last_s.max()) for k, s in both.items()}),
        pair("mean TTFT", {k: float(np.mean(s.first_s - s.queued_s)) for k, s in both.items()}),
        pair(
            "mean end-to-end", {k: float(np.mean(s.last_s - s.queued_s)) for k, s in both.items()}
        ),
        pair(
            "mean time between tokens",
            {
                k: float(np.sum(s.last_s - s.first_s) / np.sum(np.maximum(s.tokens - 1, 1)))
                for k, s in both.items()
            },
        ),
    )


def mean_errors(recorded: Served, replayed: Served) -> dict[str, float]:
    """Mean absolute error by request, in percent of the recorded mean."""
    columns = {
        "TTFT": [s.first_s - s.queued_s for s in (recorded, replayed)],
        "end-to-end": [s.last_s - s.queued_s for s in (recorded, replayed)],
        "decode": [s.last_s - s.first_s for s in (recorded, replayed)],
    }
    return {
        name: float(100 * np.mean(np.abs(got - was)) / np.mean(was))
        for name, (was, got) in columns.items()
    }


def step_times(
    recording: Recording, costs: IterationCosts, kv_tokens: float, until_s: float = np.inf
) -> StepTimes | None:
    """Compare decode iterations with the engine's counters; nothing is replayed.

    Running requests over generated tokens per second is the time of an iteration, and the share of
    the KV cache in use says over how much context. Only seconds count that follow two in which no
    prompt came in and no request ended: without an end there is no memory to prefill preempted
    requests again.
    """
    samples = recording.samples
    running, rate = series(samples, "running_requests"), series(samples, "generated_tokens_per_s")
    prompts, used = series(samples, "prompt_tokens_per_s"), series(samples, "kv_cache_pct")
    time_s = np.sort(samples["time_s"][samples["metric"] == "running_requests"])
    calm = (prompts == 0) & (running > 0) & (rate > 0) & (time_s <= until_s)
    calm[1:] &= prompts[:-1] == 0
    ends_s = np.sort(recording.requests["last_token_s"])
    step_s = float(np.median(np.diff(time_s))) if time_s.size > 1 else 1.0
    calm &= np.searchsorted(ends_s, time_s - 2 * step_s) == np.searchsorted(ends_s, time_s)
    if calm.sum() < LEAST_STEPS:
        return None
    # A sample shows who runs at its end, the rate the second before.
    mean_running = (running + np.concatenate([running[:1], running[:-1]]))[calm] / 2
    recorded = mean_running / rate[calm]
    context = used[calm] / 100 * kv_tokens
    predicted = costs.seconds(0, 0, 0, mean_running, context)[:, 0]
    return StepTimes(
        float(np.median(recorded)),
        float(np.median(predicted)),
        float(100 * (np.median(predicted / recorded) - 1)),
        int(calm.sum()),
    )


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
