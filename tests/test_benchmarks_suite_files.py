"""Suites in files: the shared one, and what a hostile one is told."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from instances.benchmarks.suite_files import MIXED, mixed, read_suite
from lemix_opt.errors import DatasetError, FieldError, LemixError

BENCH = Path(__file__).resolve().parents[2] / "shared" / "bench"
if "LEMIX_DATA" in os.environ:
    BENCH = Path(os.environ["LEMIX_DATA"]).parent / "bench"
needs_mixed = pytest.mark.skipif(
    not (BENCH / MIXED).is_file(), reason=f"{MIXED} is neither beside $LEMIX_DATA nor in ../shared"
)


def row(name: str = "a-0", **other: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": name,
        "tasks": 2,
        "nodes": 1,
        "stages": 2,
        "release_mode": "async",
        "tick_s": 0.001,
        "memory_bytes": 2**20,
        "slo_s": 0.5,
        "kind": [0, 1],
        "release_s": [0.0, 0.1],
        "batch": [1, 2],
        "prompt_tokens": [48, 113],
        "forward_s": [[0.005, 0.006], [0.016, 0.017]],
        "backward_s": [[0.0, 0.0], [0.031, 0.032]],
        "held_bytes": [0, 2**20],
        "objective": {
            "slo": {"inference_response": 4, "late_penalty_s": 2},
            "span": {"makespan": 1},
        },
        "proven": {"slo_s": 3.5},
    }
    return {k: v for k, v in (plain | other).items() if v is not None}


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_row_becomes_an_instance(tmp_path: Path) -> None:
    (found,) = read_suite(written(tmp_path / "own.json", [row()]))
    assert (found.name, found.cell, found.source) == ("a-0", "2x1x2", "file own.json")
    assert found.default_objective == "slo"
    assert found.instance.costs.backward_s[0, 1].tolist() == [0.031, 0.032]
    assert found.instance.costs.held_bytes[0, 1].tolist() == [2**20, 2**20]
    best = found.best_known["slo"]
    assert best.lower is not None
    assert best.lower == best.upper
    assert best.lower.value_s == 3.5
    assert "span" not in found.best_known


def test_seeds_take_the_first_of_every_size(tmp_path: Path) -> None:
    rows = [row("a"), row("b"), row("c", nodes=2), row("d", nodes=2), row("e", nodes=2)]
    path = written(tmp_path / "own.json", rows)
    assert [b.name for b in read_suite(path, 1)] == ["a", "c"]
    assert len(read_suite(path)) == 5
    with pytest.raises(FieldError, match="seeds"):
        read_suite(path, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodes": "two"}, r"\[0\]\.nodes: Expected `int`"),
        ({"nodes": 10**12}, r"\[0\]\.nodes"),
        ({"stages": 0}, r"\[0\]\.stages"),
        ({"kind": None}, r"\[0\].*missing required field `kind`"),
        ({"kind": [0]}, r"\[0\]\.kind: shape"),
        ({"kind": [0, 7]}, r"\[0\]\.kind\[1\]"),
        ({"forward_s": [[0.1], [0.1, 0.2]]}, r"\[0\]\.forward_s"),
        ({"forward_s": [[0.1, 0.2], [0.1, -1]]}, r"\[0\]\.forward_s\[0, 1, 1\]"),
        ({"release_s": [0.0, "x"]}, r"\[0\]\.release_s\[.*\]: Expected `float`"),
        ({"slo_s": 0}, r"\[0\]\.slo_s"),
        ({"extra": 1}, r"\[0\].*unknown field `extra`"),
        ({"objective": {}}, r"\[0\]\.objective"),
        ({"objective": {"slo": {"makespam": 1}}}, r"\[0\].*Did you mean 'makespan'"),
        ({"objective": {"slo": {"makespan": -1}}}, r"\[0\]\.makespan"),
        ({"proven": {"slow_s": 1}}, r"\[0\].*Did you mean 'slo'"),
        ({"proven": {"slo_s": -1}}, r"\[0\]\.proven\.slo_s"),
        ({"release_mode": "asink"}, r"\[0\]\.release_mode"),
        ({"held_bytes": [0, 2**21]}, r"\[0\]"),
        ({"tick_s": 0}, r"\[0\]\.tick_s"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "bad.json", [row(**change)])
    with pytest.raises(LemixError, match=r"bad\.json: " + said):
        read_suite(path)


def test_damaged_content_names_the_file(tmp_path: Path) -> None:
    bad = {
        "object.json": b"{}",
        "cut.json": b"[{",
        "latin.json": '["\xe9"]'.encode("latin-1"),
        "deep.json": b"[" * 100_000,
        "twice.json": json.dumps([row(), row()]).encode(),
        "cut.json.gz": gzip.compress(b"[]" * 1000)[:-10],
        "infinite.json": b'[{"name": "a", "tick_s": 1e999}]',
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LemixError, match=name):
            read_suite(tmp_path / name)
    with pytest.raises(LemixError, match="no such file"):
        read_suite(tmp_path / "absent.json")


def test_the_shared_suite_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEMIX_DATA", raising=False)
    with pytest.raises(DatasetError, match="LEMIX_DATA"):
        mixed()
    content = gzip.compress(json.dumps([row()]).encode())
    for folder in ("data", "data/bench", "bench"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("LEMIX_DATA", str(tmp_path / "data"))
    for folder in ("data", "data/bench", "bench"):
        file = tmp_path / folder / MIXED
        file.write_bytes(content)
        assert [b.name for b in mixed()] == ["a-0"]
        file.unlink()
    (tmp_path / "other.json.gz").write_bytes(content)
    assert len(mixed(path=str(tmp_path / "other.json.gz"))) == 1


@needs_mixed
def test_the_shared_suite_is_read_whole() -> None:
    found = read_suite(BENCH / MIXED)
    assert len(found) == 70
    assert len({b.cell for b in found}) == 14
    best = next(b.best_known["slo"] for b in found if b.best_known)
    assert best.upper is not None
    assert best.upper.value_s == 3.461
    assert all(list(b.objectives) == ["slo", "inference", "makespan"] for b in found)
