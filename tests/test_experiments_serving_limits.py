"""Limits that a log does not state are found again where they are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_tables import kernel_tables
from served_runs import served_run

from experiments.serving_limits import fit_limits
from lemix_opt.errors import FieldError
from lemix_opt.generation import Generation
from lemix_opt.recording import table
from predictors.kernels import fit_kernels
from predictors.model_shapes import model_shape

COSTS = fit_kernels(*kernel_tables(), model_shape("llama3-8b")).costs


@pytest.mark.parametrize(
    ("chunk", "kv_tokens", "ahead"), [(1024, 60_000, True), (2048, 80_000, False)]
)
def test_limits_of_an_overloaded_server(chunk: int, kv_tokens: int, ahead: bool) -> None:
    rule = Generation(chunk_tokens=chunk, ahead=ahead, keep_prefix=True)
    found = fit_limits(served_run(COSTS, rule, kv_tokens, requests=300, rate_per_s=30.0))
    assert found.kv_tokens.value == pytest.approx(kv_tokens, rel=0.02)
    assert found.kv_tokens.provenance == "fitted"
    assert found.chunk_tokens.value == chunk
    assert bool(found.ahead.value) == ahead
    assert found.batch_cap.provenance == "assumed"


def test_a_cap_shows_where_requests_wait_beside_free_memory() -> None:
    found = fit_limits(served_run(COSTS, Generation(batch_cap=12, chunk_tokens=2048), 60_000))
    assert (found.batch_cap.value, found.batch_cap.provenance) == (12, "fitted")


def test_a_quiet_server_shows_no_limits_and_they_are_said_to_be_assumed() -> None:
    rule = Generation(chunk_tokens=4096)
    found = fit_limits(served_run(COSTS, rule, 1e6, requests=30, rate_per_s=0.5))
    assert (found.chunk_tokens.provenance, found.batch_cap.provenance) == ("assumed", "assumed")


def test_what_is_missing_is_named() -> None:
    run = served_run(COSTS, Generation(), 40_000, requests=5)
    with pytest.raises(FieldError, match="no running_requests"):
        fit_limits(replace(run, samples=table("samples", {})))
    with pytest.raises(FieldError, match="no requests"):
        fit_limits(replace(run, requests=table("requests", {})))
