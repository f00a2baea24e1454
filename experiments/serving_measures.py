"""Figures of a served run, recorded and replayed, and the time model apart from any replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.serving_limits import LEAST_STEPS, series
from lemix_opt.checks import FloatArray
from lemix_opt.generation import IterationCosts
from lemix_opt.percentile import percentile
from lemix_opt.recording import Recording

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
            {k: percentile(s.first_s - s.scheduled_s, 50) for k, s in both.items()},
        ),
        pair(
            f"median TTFT, first token recorded in the first {EARLY_S:.0f} s",
            {k: percentile((s.first_s - s.queued_s)[served_early], 50) for k, s in both.items()},
        ),
        pair(
            f"median TTFT, arrived in the first {EARLY_S:.0f} s",
            {k: percentile((s.first_s - s.queued_s)[came_early], 50) for k, s in both.items()},
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
    # A sample shows a moment, the rate the second before it.
    mean_running, mean_used = (
        (column + np.concatenate([column[:1], column[:-1]]))[calm] / 2 for column in (running, used)
    )
    recorded = mean_running / rate[calm]
    context = mean_used / 100 * kv_tokens
    predicted = costs.seconds(0, 0, 0, mean_running, context)[:, 0]
    return StepTimes(
        percentile(recorded, 50),
        percentile(predicted, 50),
        100 * (percentile(predicted / recorded, 50) - 1),
        int(calm.sum()),
    )
