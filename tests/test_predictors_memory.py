"""Memory formulas against hand-computed figures; saved models; predicted costs."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measured_data import DATA, needs_data

from instances import generate, load
from lemix_opt.errors import FieldError, FileFormatError
from lemix_opt.grid import on_grid
from predictors import (
    AnalyticTimeModel,
    BoostedTimeModel,
    estimate_costs,
    load_calibration,
    load_model,
    save_model,
)
from predictors.gpus import GPUS
from predictors.memory import held_bytes, resident_bytes
from predictors.model_shapes import model_shape

MIB = 2.0**20


def test_states_by_hand() -> None:
    shape = model_shape("llama-13b")
    matrix = 32000 * 5120
    inner = (13e9 - 2 * matrix) / 4
    assert resident_bytes(shape, 4, "gpu") == pytest.approx(
        [16 * (inner + matrix), 16 * inner, 16 * inner, 16 * (inner + matrix)]
    )
    assert resident_bytes(shape, 1, "none").tolist() == [26e9]
    with pytest.raises(FieldError, match="optimizer"):
        resident_bytes(shape, 1, "disk")


def test_activations_and_cache_by_hand() -> None:
    shape = model_shape("llama2-70b")
    held = held_bytes(shape, 4, np.array([1000, 1000]), np.array([True, False]))
    assert held[0].tolist() == [34 * 8192 * 20 * 1000] * 4
    # Keys and values: 2 tensors x 2 bytes x 8 heads of 128, 20 layers; then one layer's work.
    assert held[1].tolist() == [1000 * (20 * 2 * 2 * 8 * 128 + 2 * (2 * 8192 + 28672))] * 4


def test_predicted_costs_lie_on_the_grid_and_never_below_the_model() -> None:
    work = generate(30, seed=1)
    model = load_calibration("llama-13b-a100").time_model()
    shape = model_shape("llama-13b")
    costs = estimate_costs(work, model, shape, stages=4, backward_ratio=2.0)
    free = estimate_costs(work, model, shape, stages=4, backward_ratio=2.0, tick_s=None)
    assert on_grid(costs.forward_s, 0.001)
    assert on_grid(costs.backward_s, 0.001)
    assert np.all(costs.forward_s >= free.forward_s - 1e-12)
    assert np.all(costs.forward_s < free.forward_s + 0.001)
    assert np.all(costs.backward_s[:, work.is_inference] == 0)
    assert free.backward_s[0, work.is_training] == pytest.approx(
        2 * free.forward_s[0, work.is_training]
    )
    assert np.all(costs.held_bytes % 2**20 == 0)


def test_a_model_that_predicts_no_time_is_refused() -> None:
    model = AnalyticTimeModel(calibrate=False).fit([[1, 1], [1, 2]], [1e-9, 2e-9])
    model.coef_ = np.zeros(3)
    with pytest.raises(FieldError, match="positive time"):
        estimate_costs(generate(3), model, model_shape("llama-7b"), stages=2)


@needs_data
def test_what_a_layer_keeps_agrees_with_acesos_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of all operators but two, which the next one does not need, and dropout masks."""
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    table = load("aceso_op_times_memory")
    layer = np.char.startswith(table["op_name"], "enc-") & (table["precision"] == "fp16")
    matrix = ("enc-attention-score", "enc-attention-softmax", "enc-attention-dropout")
    passing = ("enc-attention-dense", "enc-MLP-GEMM-2")
    kept = layer & ~np.isin(table["op_name"], (*matrix, *passing))
    names = {"OPT-350": "opt-350m", "OPT-30": "opt-30b", "GPT-Neo-2.7": "gpt-neo-2.7b"}
    for name, own in names.items():
        shape = replace(model_shape(own), layers=1)
        for rows in (1, 8):
            run = (table["model"] == name) & (table["micro_batch"] == rows) & (table["tp"] == 1)
            run &= (table["gpu"] == "A100-40") & (table["algo"] == 0)
            said = held_bytes(shape, 1, np.array([2048 * rows]), np.array([True]))[0, 0]
            assert table["activations"][run & kept].sum() * MIB == pytest.approx(said, rel=2e-3)
            weights = table["weights"][run & layer].sum() * MIB
            assert weights == pytest.approx(2 * 12 * shape.hidden**2, rel=1e-6)


def test_kv_capacity_of_a_served_model_is_about_what_its_run_showed() -> None:
    """41,218 tokens, fitted on vLLM's run of Llama-3-8B on an RTX 4090 (docs/replay.md)."""
    shape, budget = model_shape("llama3-8b"), 2048
    free = 0.9 * GPUS["rtx-4090"].memory_bytes - resident_bytes(shape, 1, "none")[0]
    working = held_bytes(shape, 1, np.array([budget]), np.array([False]))[0, 0]
    working -= budget * shape.kv_bytes_per_token
    assert (free - working) / shape.kv_bytes_per_token == pytest.approx(41_218, rel=0.03)


@pytest.mark.parametrize("kind", [AnalyticTimeModel, BoostedTimeModel])
def test_saved_models_come_back(kind: type, tmp_path: Path) -> None:
    X = np.column_stack([np.arange(1, 21), 10 * np.arange(1, 21)]).astype(float)
    model = kind().fit(X, 0.01 * X.prod(axis=1))
    save_model(model, tmp_path / "m.skops", "0" * 64)
    found = load_model(tmp_path / "m.skops")
    assert found.data_sha256 == "0" * 64
    assert found.model.predict(X).tolist() == model.predict(X).tolist()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run",))


def test_foreign_files_are_refused_and_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.skops").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(FileFormatError, match="not a saved model"):
        load_model(tmp_path / "p.skops")
    with pytest.raises(FieldError, match="a model of this package"):
        save_model(Evil(), tmp_path / "e.skops", "")
    with pytest.raises(FileFormatError, match="no such file"):
        load_model(tmp_path / "none")
    assert capsys.readouterr().out == ""
