"""Iterations of kernel times: counted as a model runs them, found again where truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_tables import ATTENTION, PER_RUN_US, kernel_tables
from measured_data import DATA, needs_data

from instances import load
from lemix_opt.errors import FieldError, UnknownNameError
from predictors.kernels import PER_LAYER, composed, fit_kernels
from predictors.model_shapes import model_shape

SHAPE = model_shape("llama3-8b")


def test_an_iteration_runs_every_kernel_as_often_as_the_model_does() -> None:
    found = fit_kernels(*kernel_tables(), SHAPE)
    costs = found.costs
    base, decode, context, pair, mixed_decode, mixed_context = ATTENTION
    # 32 layers with two norms and six other kernels, then embedding and the last norm.
    dense = {n: PER_RUN_US * (32 * 8 + 2) * max(n, 64) for n in (1, 40, 700)}
    head = 2 * 1000 + 2 * 1  # lm_head and sampler: 1000 us and 1 us per request, each
    alone = 32 * (base + 40 * decode + 40 * 500 * context) + dense[40] + head + 39 * 2
    assert costs.seconds(0, 0, 0, 40, 40 * 500).sum() == pytest.approx(alone / 1e6, rel=1e-3)
    prefill = 32 * (base + 700 * 700 * pair) + dense[700] + 2000
    assert costs.seconds(0, 700, 700 * 700).sum() == pytest.approx(prefill / 1e6, rel=1e-3)
    both = 32 * (
        base
        + 660 * 660 * pair
        + 40 * (decode + mixed_decode)
        + 40 * 500 * (context + mixed_context)
    )
    both += dense[700] + head + 39 * 2
    seconds = costs.seconds(0, 660, 660 * 660, 40, 40 * 500).sum()
    assert seconds == pytest.approx(both / 1e6, rel=1e-3)
    assert max(found.mape_pct.values()) < 0.1
    assert costs.kv_bytes_per_token.sum() == 131072


def test_composed_iterations_count_every_kernel_at_the_measured_points() -> None:
    attention, dense, per_sequence = kernel_tables()
    seconds = composed(attention, dense, per_sequence, SHAPE)
    chunk, decodes = attention["prefill_chunk"], attention["n_decode"]
    requests = decodes + (chunk > 0)
    micros = 32 * attention["time_us"] + (32 * 8 + 2) * PER_RUN_US * np.maximum(chunk + decodes, 64)
    # Between measured amounts both known truths are straight, but for the corner at 64 tokens.
    np.testing.assert_allclose(1e6 * seconds, micros + 2 * (1000 + requests), rtol=1e-9)


def test_iterations_beyond_the_measured_kernels_are_refused() -> None:
    attention, dense, per_sequence = kernel_tables()
    small = dense.where(dense["tokens"] <= 512)
    with pytest.raises(FieldError, match="1088 tokens"):
        composed(attention, small, per_sequence, SHAPE)


def test_stages_share_the_layers() -> None:
    whole, split = (fit_kernels(*kernel_tables(), SHAPE, stages=s).costs for s in (1, 4))
    amounts: Any = (0, 300, 90000, 20, 4000)
    assert split.seconds(*amounts).sum() == pytest.approx(whole.seconds(*amounts).sum())
    assert split.token_s.shape == (1, 4, whole.token_knots.size)


def test_a_layer_that_is_not_counted_or_not_measured_is_named() -> None:
    attention, dense, per_sequence = kernel_tables()
    fewer = {k: v for k, v in PER_LAYER.items() if k != "act_fn"}
    with pytest.raises(UnknownNameError, match="layer of dense 'act_fn'"):
        fit_kernels(attention, dense, per_sequence, SHAPE, per_layer=fewer)
    with pytest.raises(FieldError, match="no layer 'q_norm'"):
        fit_kernels(attention, dense, per_sequence, SHAPE, per_layer=PER_LAYER | {"q_norm": 1})
    apart = attention.where((attention["prefill_chunk"] == 0) | (attention["n_decode"] == 0))
    with pytest.raises(FieldError, match="no prefill beside decodes"):
        fit_kernels(apart, dense, per_sequence, SHAPE)


@needs_data
def test_measured_kernels_add_up_to_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    names = ("attention", "dense", "per_sequence")
    tables = [load(f"vllm_rtx4090_llama3_8b_{name}") for name in names]
    found = fit_kernels(*tables, SHAPE, most_context=41_000)
    # Reading 16 GB of weights at 1008 GB/s takes 15.9 ms.
    assert 0.0159 < found.costs.seconds(0, 0, 0, 1, 16).sum() < 0.0185
    assert found.mape_pct["decodes alone"] < 1.5
    assert max(found.mape_pct.values()) < 7
    assert np.all(np.diff(found.costs.token_knots) > 0)
    assert found.token_reach == 2048
