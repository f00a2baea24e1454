"""Points of `lemix predict`: what is read is what was written, or refused by line; answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments.cli import app
from experiments.predicting import OPERATION, predict_hops, read_points
from lemix_opt.errors import FieldError, FileFormatError, UnknownNameError
from predictors.hops import HopModel
from predictors.model_shapes import model_shape
from predictors.operation_model import OperationTimeModel
from predictors.operation_terms import terms
from predictors.operations import operation_rows
from predictors.saving import save_model


def test_columns_left_out_are_as_in_the_default(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("model, rows\nllama-7b, 4\n\nopt-30b,8.5\n")
    first, second = read_points(path, OPERATION)
    assert first == {**OPERATION, "model": "llama-7b", "rows": 4.0}
    assert second["rows"] == 8.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows\n" + "1" * 200_000 + "\n", r"p\.csv:2"),
        ("rows,rows\n1,2\n", "'rows' twice"),
        ("rows\n1_0\n", r"p\.csv:2: rows: '1_0'"),
        ("rows\n١٢\n", r"p\.csv:2: rows"),
        ("rows\nnan\n", r"p\.csv:2: rows: 'nan'"),
        ("rows,length\n1\n", r"p\.csv:2: 1 cells"),
        ("rows\n", "no rows"),
        ("", "empty"),
    ],
)
def test_what_is_no_point_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=said):
        read_points(path, OPERATION)


def test_an_unknown_column_has_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("row\n1\n")
    with pytest.raises(UnknownNameError, match="'rows'"):
        read_points(path, OPERATION)


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_points_come_from_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileFormatError):
        read_points(tmp_path / name, OPERATION)


def test_hops_are_answered_with_interval_and_provenance() -> None:
    sent = np.linspace(1e3, 1e6, 200)[:, None]
    noise = np.random.default_rng(0).normal(0, 0.05, 200)
    model = HopModel().fit(sent, (1e-5 + sent[:, 0] / 1e9) * np.exp(noise))
    near, far = predict_hops(model, [{"sent_bytes": 5e5}, {"sent_bytes": 1e9}], 0.9, "here")
    assert near["seconds"] == pytest.approx(1e-5 + 5e-4, rel=0.1)
    assert near["low_s"] < near["seconds"] < near["high_s"]
    assert (near["provenance"], far["provenance"]) == ("interpolated", "extrapolated")
    with pytest.raises(FieldError, match="point 1 of here: sent_bytes"):
        predict_hops(model, [{"sent_bytes": -1.0}], 0.9, "here")


def test_shapes_of_a_new_gpu_are_suggested(tmp_path: Path) -> None:
    X = operation_rows("prefill", model_shape("opt-350m"), "a100-40gb", rows=[1, 8, 64], length=99)
    model = OperationTimeModel(trees=1, calibrate=False).fit(X, terms(X).sum(axis=1))
    save_model(model, tmp_path / "m.skops", "0" * 64)
    points = tmp_path / "p.csv"
    lines = [f"opt-350m,v100-16gb,{rows},99,{tensor}" for rows in (1, 64) for tensor in (1, 2)]
    points.write_text("\n".join(["model,gpu,rows,length,tensor", *lines]) + "\n")
    asked = ["suggest", str(tmp_path / "m.skops"), "--points", str(points), "--count", "2"]
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)["measure"]
    assert [point["order"] for point in told] == [1, 2]
    assert {point["gpu"] for point in told} == {"v100-16gb"}
    assert all(point["seconds"] > 0 for point in told)
    written = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "out.csv")])
    assert written.output.startswith("2 shapes, 2 operations in ")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3
    none = CliRunner().invoke(app, [*asked[:-1], "9"])
    assert "count: 9; expected at most 4" in str(none.exception)
