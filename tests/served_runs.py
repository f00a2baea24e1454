"""Logs of a server whose settings are known: the engine's own runs, sampled each second."""

from __future__ import annotations

import numpy as np

from experiments.serving_replay import run
from lemix_opt.generation import Generation, IterationCosts
from lemix_opt.recording import Provenance, Recording, table
from lemix_opt.workload import Workload


def served_run(
    costs: IterationCosts,
    rule: Generation,
    kv_tokens: float,
    *,
    requests: int = 200,
    rate_per_s: float = 10.0,
    outputs: tuple[int, int] = (100, 700),
    seed: int = 0,
) -> Recording:
    """Serve drawn requests and log them as vLLM does."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_per_s, requests))
    arrivals -= arrivals[0]
    prompts = rng.integers(100, 1500, requests)
    made_tokens = rng.integers(*outputs, requests)
    work = Workload(np.zeros(requests, dtype=int), arrivals, 1, prompts, made_tokens)
    served, made = run(work, costs, rule, kv_tokens)
    turns = made.iterations
    ends, starts = turns.end_s[:, 0], turns.start_s[:, 0]
    seconds = np.arange(1.0, np.ceil(ends[-1]) + 1)
    now = np.clip(np.searchsorted(starts, seconds, side="right") - 1, 0, None)
    busy = ends[now] > seconds
    running = np.where(busy, (turns.prefills + turns.decodes)[now], 0)
    present = np.searchsorted(arrivals, seconds) - np.searchsorted(np.sort(served.last_s), seconds)
    edges = np.concatenate([[0.0], seconds])

    def per_second(times: np.ndarray, amounts: np.ndarray) -> np.ndarray:
        return np.histogram(times, edges, weights=amounts)[0]

    firsts = per_second(served.first_s, np.ones(requests))
    metrics = {
        "running_requests": running,
        "waiting_requests": np.maximum(present - running, 0),
        "kv_cache_pct": np.where(busy, 100 * turns.kv_tokens[now] / kv_tokens, 0.0),
        "prompt_tokens_per_s": per_second(served.first_s, prompts),
        "generated_tokens_per_s": per_second(ends, turns.decodes) + firsts,
    }
    return Recording(
        Provenance("synthetic", "the engine itself"),
        requests=table(
            "requests",
            {
                "request": [f"r{i}" for i in range(requests)],
                "prompt_tokens": prompts,
                "output_tokens": made_tokens,
                "queued_s": arrivals,
                "scheduled_s": served.scheduled_s,
                "first_token_s": served.first_s,
                "last_token_s": served.last_s,
            },
        ),
        samples=table(
            "samples",
            {
                "time_s": np.tile(seconds, len(metrics)),
                "metric": [name for name in metrics for _ in seconds],
                "value": np.concatenate([v.astype(float) for v in metrics.values()]),
            },
        ),
    )
