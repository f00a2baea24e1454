"""Replays of served runs: exact where everything is known, and near the real recording."""

from __future__ import annotations

import json

import numpy as np
import pytest
from kernel_tables import kernel_tables
from measured_data import DATA, needs_data
from served_runs import served_run
from typer.testing import CliRunner

from experiments.cli import app
from experiments.serving_limits import Estimate, ServingLimits
from experiments.serving_measures import step_times
from experiments.serving_replay import recorded_requests, replay_serving, run
from lemix_opt.errors import FieldError
from lemix_opt.generation import Generation
from predictors.kernels import fit_kernels
from predictors.model_shapes import model_shape

SHAPE = model_shape("llama3-8b")
COSTS = fit_kernels(*kernel_tables(), SHAPE, most_context=20_000).costs


def known(value: float, unit: str = "tokens") -> Estimate:
    return Estimate(value, value, value, unit, "fitted", "known")


def test_a_run_of_known_limits_and_times_is_repeated_exactly() -> None:
    rule = Generation(chunk_tokens=2048, ahead=True, keep_prefix=True)
    recording = served_run(COSTS, rule, 20_000, rate_per_s=20.0)
    limits = ServingLimits(known(20_000), known(256, "requests"), known(2048), known(1, ""))
    found = replay_serving(recording, *kernel_tables(), SHAPE, limits=limits)
    assert found.primary.preemptions > 0
    for measure in found.primary.measures:
        assert measure.error_pct == pytest.approx(0, abs=1e-9), measure.name
    assert max(found.primary.mean_error_pct.values()) == pytest.approx(0, abs=1e-9)
    other = {replay.name: replay for replay in found.others}
    whole = other["queueing rule: whole second prefill"]
    assert whole.measures[4].error_pct > 0
    late = other["queueing rule: iterations formed after each other"]
    assert late.measures[0].error_pct < -10


def test_decode_iterations_are_compared_without_a_replay() -> None:
    rule = Generation(chunk_tokens=2048)
    recording = served_run(COSTS, rule, 60_000, requests=20, rate_per_s=40, outputs=(1500, 1600))
    right = step_times(recording, COSTS, 60_000)
    slow = step_times(recording, COSTS.scaled(np.array([1.2])), 60_000)
    assert right is not None
    assert slow is not None
    assert right.error_pct == pytest.approx(0, abs=1)
    assert slow.error_pct == pytest.approx(20, abs=1.2)
    assert step_times(recording, COSTS, 60_000, until_s=1.5) is None


def test_a_request_that_no_fitted_cache_holds_is_named() -> None:
    recording = served_run(COSTS, Generation(), 20_000, requests=5)
    _, work = recorded_requests(recording)
    with pytest.raises(FieldError, match=r"limits\.kv_tokens: 50 tokens.*room for request 0"):
        run(work, COSTS, Generation(), 50)


@needs_data
def test_the_recorded_run_on_an_rtx_4090() -> None:
    name = "vllm_rtx4090_llama3_8b"
    files = [str(DATA / "runs" / f"{name}_{part}.csv") for part in ("requests", "timeseries")]
    profile = DATA / "profiles"
    arguments = ["replay-serving", *files, "--model", "llama3-8b", "--json"]
    for option, end in (("attention", ".csv.gz"), ("dense", ".csv"), ("per-sequence", ".csv")):
        arguments += [f"--{option}", str(profile / f"{name}_{option.replace('-', '_')}{end}")]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    said = json.loads(answer.output)
    limits = said["limits"]
    assert limits["kv_tokens"]["low"] < limits["kv_tokens"]["value"] < limits["kv_tokens"]["high"]
    assert limits["kv_tokens"]["value"] == pytest.approx(41_200, rel=0.01)
    assert (limits["chunk_tokens"]["value"], limits["ahead"]["value"]) == (2048, 1)
    primary = said["replays"][0]
    assert primary["name"] == "profile alone"
    errors = {m["name"]: abs(m["error_pct"]) for m in primary["measures"]}
    assert errors["median first token - scheduled"] < 10
    assert errors["median TTFT, first token recorded in the first 30 s"] < 10
    assert errors["median TTFT, arrived in the first 30 s"] < 10
    assert errors["p95 end-to-end"] < 5
    assert errors["total time"] < 3
    assert max(primary["mean_error_pct"].values()) < 10
    assert abs(said["decode_iterations"]["error_pct"]) < 5
    assert np.isfinite(said["overhead_s"])
