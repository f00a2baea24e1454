"""Model files: what comes back is what was saved, and a hostile file runs nothing."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from experiments.cli import app
from lemix_opt.errors import FileFormatError
from predictors import saving
from predictors.model_shapes import model_shape
from predictors.operation_model import OperationTimeModel
from predictors.operation_terms import terms
from predictors.operations import operation_rows
from predictors.saving import load_model, save_model

SHA256 = "ab" * 32


def points() -> np.ndarray:
    grid = np.array([(b, n) for b in (1, 2, 4, 8, 16) for n in (32, 64, 128, 256, 512)])
    shape = model_shape("llama-7b")
    return operation_rows("prefill", shape, "a100-80gb", rows=grid[:, 0], length=grid[:, 1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    X = points()
    path = tmp_path_factory.mktemp("models") / "m.skops"
    save_model(OperationTimeModel(trees=10).fit(X, 1e-3 + 1.5 * terms(X).sum(axis=1)), path, SHA256)
    return path


def test_a_loaded_model_predicts_the_same(saved: Path) -> None:
    X = points()
    again = load_model(saved)
    assert again.data_sha256 == SHA256
    fresh = OperationTimeModel(trees=10).fit(X, 1e-3 + 1.5 * terms(X).sum(axis=1))
    assert np.array_equal(again.model.predict(X), fresh.predict(X))
    assert np.array_equal(again.model.predict_interval(X), fresh.predict_interval(X))
    assert again.model.provenance(X).tolist() == [0] * len(X)


def test_a_model_without_intervals_can_be_saved(tmp_path: Path) -> None:
    X = points()
    model = OperationTimeModel(trees=3, calibrate=False).fit(X, terms(X).sum(axis=1))
    save_model(model, tmp_path / "m.skops", SHA256)
    assert np.array_equal(load_model(tmp_path / "m.skops").model.predict(X), model.predict(X))


class Touches:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.path)!r}, 'w')",))


def with_schema(saved: Path, content: bytes, path: Path) -> Path:
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == "schema.json" else old.read(name))
    return path


def test_hostile_files_are_refused_and_run_nothing(saved: Path, tmp_path: Path) -> None:
    trace, path = tmp_path / "ran", tmp_path / "x.skops"
    evil = pickle.dumps(Touches(trace))
    path.write_bytes(evil)
    with pytest.raises(FileFormatError, match="not a saved model"):
        load_model(path)
    whole = saved.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="not a saved model"):
        load_model(path)
    for broken in (b"{", b"[]", b"null", b'{"__class__": 3}', b"\xff"):
        with pytest.raises(FileFormatError, match=r"not a saved model|asks for"):
            load_model(with_schema(saved, broken, path))
    with zipfile.ZipFile(saved) as file:
        schema = json.loads(file.read("schema.json"))
    foreign = json.dumps(schema).replace("OperationTimeModel", "Other").encode()
    with pytest.raises(FileFormatError, match=r"asks for predictors\.operation_model\.Other"):
        load_model(with_schema(saved, foreign, path))
    system = json.dumps(schema).replace('"predictors.operation_model"', '"os"').encode()
    with pytest.raises(FileFormatError, match="asks for os"):
        load_model(with_schema(saved, system, path))
    # An array that is a pickle inside: numpy refuses it.
    stream = io.BytesIO()
    np.save(stream, np.array([Touches(trace)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, stream.getvalue() if name.endswith(".npy") else old.read(name))
    with pytest.raises(FileFormatError):
        load_model(path)
    assert not trace.exists()


def test_files_of_other_versions_and_sizes_are_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.skops"
    now = saving.VERSION
    monkeypatch.setattr(saving, "VERSION", now - 1)
    said = rf"version {now}; expected version {now - 1}\. Fit it again"
    with pytest.raises(FileFormatError, match=said):
        load_model(saved)
    monkeypatch.undo()
    save_model(load_model(saved).model, path, 7)  # type: ignore[arg-type]
    with pytest.raises(FileFormatError, match="data_sha256: a int"):
        load_model(path)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            # An array whose header claims more than any memory holds.
            claims = old.read(name).replace(b"'shape': (", b"'shape': (10000000000000, ", 1)
            new.writestr(name, claims if name.endswith(".npy") else old.read(name))
    with pytest.raises(FileFormatError, match="not a saved model"):
        load_model(path)
    monkeypatch.setattr(saving, "_MOST_BYTES", 100)
    with pytest.raises(FileFormatError, match="expected at most 100"):
        load_model(saved)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=20))
def test_mutated_files_load_or_are_refused(
    saved: Path, tmp_path: Path, at: int, content: bytes
) -> None:
    whole = saved.read_bytes()
    place = at % len(whole)
    path = tmp_path / "m.skops"
    path.write_bytes(whole[:place] + content + whole[place + len(content) :])
    with suppress(FileFormatError):
        assert load_model(path).data_sha256


def test_predict_answers_from_the_command_line(saved: Path, tmp_path: Path) -> None:
    run = CliRunner()
    single = ["--model", "llama-7b", "--gpu", "a100-80gb", "--rows", "4", "--length", "128"]
    said = json.loads(run.invoke(app, ["predict", str(saved), *single, "--json"]).stdout)
    (one,) = said["predictions"]
    assert said["head"]["data_sha256"] == SHA256
    assert one["low_s"] <= one["seconds"] <= one["high_s"]
    assert one["provenance"] == "measured"
    asked, out = tmp_path / "in.csv", tmp_path / "out.csv"
    asked.write_text("model,gpu,rows,length\nllama-7b,a100-80gb,4,128\nllama-7b,h100-80gb,3,99\n")
    assert run.invoke(app, ["predict", str(saved), "--points", str(asked), "--out", str(out)])
    lines = out.read_text().splitlines()
    assert float(lines[1].split(",")[lines[0].split(",").index("seconds")]) == one["seconds"]
    assert lines[2].endswith("extrapolated")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"model,gpu\n", "no rows"),
        (b"model,gpu,row\nllama-7b,a100-80gb,1\n", "Did you mean 'rows'"),
        (b"model,gpu,rows\nllama-7b,a100-80gb,many\n", "in.csv:2: rows: 'many'"),
        (b"model,gpu,rows\nllama-7b,a100-80gb\n", "in.csv:2: 2 cells"),
        (b"model,gpu,rows\nllama-7b,a100-80gb,0\n", "rows, row 0: 0"),
        (b"model,gpu\nlama-7b,a100-80gb\n", "Did you mean 'llama-7b'"),
        (b"\xff\xfe\x00", "in.csv:1: byte 2 (0x00) is not UTF-16"),
        (b"model\xff,gpu\n", "in.csv:1: byte 5"),
    ],
)
def test_bad_points_are_named(saved: Path, tmp_path: Path, content: bytes, message: str) -> None:
    asked = tmp_path / "in.csv"
    asked.write_bytes(content)
    found = CliRunner().invoke(app, ["predict", str(saved), "--points", str(asked)])
    assert message in str(found.exception)
