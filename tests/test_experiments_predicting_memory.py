"""`lemix predict` asked for peak memory: options, a CSV, and what it says of memory running out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments.cli import app
from experiments.memory_errors import memory_model, physics
from experiments.predicting_memory import RUN, known_as, predict_runs
from lemix_opt.errors import FieldError
from predictors.evidence import NEW_MODEL
from predictors.memory_model import MemoryModel
from predictors.memory_parts import TrainingRun, training_parts
from predictors.model_shapes import model_shape
from predictors.saving import load_model, save_model

GIB = 2.0**30
TABLE_NAME = {"mistral-7b": "mistralai/Mistral-7B-v0.1", "llama3-8b": "meta-llama/Meta-Llama-3-8B"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit to made-up runs of two models that hold 1.1 times what the formulae say."""
    names, parts = [], []
    for shape, name in TABLE_NAME.items():
        for rows in (1, 2, 3, 4, 6, 8):
            for length in (512.0, 1024.0, 2048.0):
                names.append(name)
                parts.append(training_parts(model_shape(shape), TrainingRun(rows, length, gpus=4)))
    X = np.array(parts)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.03, len(X)))
    model = memory_model(boost=0.0).fit(X, 1.1 * physics(X) * noise, np.array(names))
    model.limit_bytes_ = 60 * GIB
    path = tmp_path_factory.mktemp("memory") / "mem.skops"
    save_model(model, path, "f" * 64)
    return path


def test_options_and_points_say_the_same(saved: Path, tmp_path: Path) -> None:
    path, run = saved, CliRunner()
    asked = ["--model", "llama3-8b", "--rows", "4", "--length", "1024", "--gpus", "4"]
    said = json.loads(run.invoke(app, ["predict", str(path), *asked, "--json"]).stdout)
    assert said["head"] == {"data_sha256": "f" * 64, "coverage": 0.9, "quantile": 0.95}
    (one,) = said["predictions"]
    assert one["low_gib"] < one["peak_gib"] < one["high_gib"]
    assert one["peak_gib"] < one["upper_gib"]
    assert (one["limit_gib"], one["provenance"]) == (60.0, "measured")
    csv = tmp_path / "runs.csv"
    csv.write_text("rows,checkpointing,length\n4,yes,1024\n4,no,1024\n5,true,600\n400,true,2048\n")
    asked = ["--points", str(csv), "--model", "llama3-8b", "--gpus", "4"]
    found = json.loads(run.invoke(app, ["predict", str(path), *asked, "--json"]).stdout)
    rows = found["predictions"]
    assert rows[0]["peak_gib"] == pytest.approx(one["peak_gib"])
    assert rows[1]["peak_gib"] > one["peak_gib"]
    kinds = ["measured", "extrapolated", "interpolated", "extrapolated"]
    assert [row["provenance"] for row in rows] == kinds
    assert [row["out_of_memory"] for row in rows] == [row["peak_gib"] > 60 for row in rows]
    assert rows[3]["out_of_memory"]
    text = run.invoke(app, ["predict", str(path), *asked]).stdout
    assert "predicted above 60.0 GiB of an A100 80 GB" in text
    assert "95 % below [GiB]" in text


def test_without_a_limit_nothing_is_said(saved: Path) -> None:
    model = load_model(saved).model
    model.limit_bytes_ = np.inf
    (found,) = predict_runs(model, [{**RUN, "model": "llama3-8b"}], 0.9, 0.95, "options")
    assert found["out_of_memory"] is None
    assert found["limit_gib"] is None


def test_a_model_that_was_not_fitted_on_has_the_interval_of_models_left_out(saved: Path) -> None:
    model = load_model(saved).model
    asked = {**RUN, "gpus": 4.0, "rows": 2.0, "length": 1024.0}
    known, new = predict_runs(
        model,
        [{**asked, "model": name} for name in ("llama3-8b", "llama-7b")],
        0.5,
        0.5,
        "options",
    )
    assert (known["provenance"], new["provenance"]) == ("measured", "extrapolated")
    radius = float(np.quantile(np.abs(held_out(model, NEW_MODEL)), 0.5, method="higher"))
    assert np.log(new["high_gib"] / new["peak_gib"]) >= radius
    # Two made-up models of one noise: one is as sure without the other.
    assert np.log(new["high_gib"] / new["peak_gib"]) < 3 * radius


def held_out(model: MemoryModel, kind: int) -> np.ndarray:
    own = model.residual_kinds_ == kind
    return model.residuals_[own] * model.noise_.new[kind - NEW_MODEL]


def test_longer_and_larger_runs_have_wider_intervals(saved: Path) -> None:
    model = load_model(saved).model
    run = {**RUN, "model": "llama3-8b", "gpus": 4.0, "length": 1024.0}
    # Measured up to 16,384 tokens; the others are three and five doublings beyond.
    for what, values in (("length", [2**11, 2**17, 2**19]), ("rows", [8, 2**7, 2**9])):
        asked = [{**run, what: float(value)} for value in values]
        found = predict_runs(model, asked, 0.8, 0.8, "options")
        for bound in ("high_gib", "upper_gib"):
            width = [one[bound] / one["peak_gib"] for one in found]
            assert width[0] < width[1] < width[2]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--kind", "prefill"], "unknown parameter of a model of peak memory 'kind'"),
        (["--model", "llama3-9b"], "point 1 of options"),
        (["--model", "llama3-8b", "--rows", "1.5"], "point 1 of options"),
        (["--model", "llama3-8b", "--method", "qlora"], "point 1 of options"),
        (["--model", "llama3-8b", "--quantile", "1.5"], "quantile"),
    ],
)
def test_bad_questions_are_refused(saved: Path, asked: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["predict", str(saved), *asked])
    assert result.exit_code != 0
    assert said in result.output or said in str(result.exception)


def test_cells_that_are_neither_true_nor_false(saved: Path, tmp_path: Path) -> None:
    csv = tmp_path / "runs.csv"
    csv.write_text("model,checkpointing\nllama3-8b,perhaps\n")
    result = CliRunner().invoke(app, ["predict", str(saved), "--points", str(csv)])
    assert "runs.csv:2: checkpointing: 'perhaps'" in str(result.exception)


def test_names_of_shapes_and_of_the_table() -> None:
    assert known_as("llama3-8b") == ("llama3-8b", "meta-llama/Meta-Llama-3-8B")
    assert known_as("TechxGenus/Meta-Llama-3-8B-GPTQ") == (
        "llama3-8b",
        "TechxGenus/Meta-Llama-3-8B-GPTQ",
    )
    assert known_as("llama-7b") == ("llama-7b", "llama-7b")
    assert known_as("") == ("", "")
    with pytest.raises(FieldError, match="quantile"):
        predict_runs(memory_model(), [], 0.9, 2.0, "options")
