"""Speed of continuous batching, on the Azure trace and in growth; see `make bench`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from measured_data import DATA, needs_data

from instances import load
from lemix_opt import Cluster, Generation, Instance, Workload, simulate
from predictors.iterations import load_iterations, serving_costs
from solvers.registry import POLICIES

REPLICAS = 4


def served(release_s: Any, prompt: Any, output: Any) -> Instance:
    """Replicas of llama-13b on one A100 each; its times are fitted up to 512 tokens."""
    kind = np.zeros(len(prompt), dtype=np.int64)
    workload = Workload(kind, release_s, 1, prompt, output)
    costs = serving_costs(workload, load_iterations("llama-13b-a100"), stages=1)
    return Instance(Cluster(REPLICAS, 1, 80 * 2**30), workload, costs, generation=Generation())


def measure(benchmark: Any, instance: Instance) -> None:
    arguments = (instance, POLICIES.create("jsq"))
    schedule = benchmark.pedantic(simulate, arguments, rounds=5, warmup_rounds=1)
    assert schedule.complete
    steps = schedule.generated.iterations.request_steps
    median_s = benchmark.stats.stats.median
    benchmark.extra_info["iterations"] = schedule.generated.iterations.rows
    benchmark.extra_info["million_request_steps_per_s"] = round(steps / median_s / 1e6, 2)
    benchmark.extra_info["us_per_request"] = round(1e6 * median_s / instance.tasks, 2)


@needs_data
def test_azure_conversations(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """19,366 requests: wanted are at most 0.5 s and at least 8 million request-steps/s."""
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    table = load("azure_llm_2023_conv")
    output = np.maximum(table["GeneratedTokens"], 1)
    measure(benchmark, served(table["arrival_s"], table["ContextTokens"], output))


@pytest.mark.parametrize("requests", [10_000, 100_000, 1_000_000])
def test_growth(benchmark: Any, requests: int) -> None:
    """Seconds per request stay the same; synthetic lengths, Poisson arrivals at 8 per second."""
    rng = np.random.default_rng(0)
    release_s = np.cumsum(rng.exponential(1 / 8, requests))
    prompt = rng.integers(50, 1000, requests)
    measure(benchmark, served(release_s, prompt, rng.geometric(1 / 200, requests)))
