"""Sizes and numbers in files have limits, which are checked before anything is allocated."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars
import pytest
from fuzzing import peak_bytes

from experiments.sweep_config import read_grid
from instances import read, write
from instances.benchmarks.suite_files import read_suite
from instances.readers import READERS
from instances.schedule_files import read_schedule
from instances.trace_files import read_trace, write_trace
from lemix_opt import Cluster, Costs, Instance, LemixError, Trace, Workload
from predictors.loss_curve import read_loss_curve

DEEP = "[" * 900 + "1" + "]" * 900


def small(weight: float = 1.0) -> Instance:
    work = Workload([0, 1], [0.0, 0.5], 1, 8, output_tokens=[1, 0], weight=weight)
    return Instance(Cluster(1, 2, 1.0), work, Costs([[[0.1, 0.1]] * 2], 0.1, 0.0, 0.0), "open")


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    write(small(), tmp_path / "i.json")
    found: dict[str, Any] = json.loads((tmp_path / "i.json").read_text())
    return found


@pytest.mark.parametrize(
    ("part", "fields", "said"),
    [
        ("cluster", {"nodes": 10**9}, r"nodes: 1000000000 nodes of 2 .* at most 1048576 GPUs"),
        ("cluster", {"nodes": 2**62}, r"nodes: .*at most 1048576 GPUs"),
        ("cluster", {"nodes": 20_000, "stages": 20_000}, r"nodes: 20000 nodes of 20000 stages"),
        ("cluster", {"stages": 2**40}, r"nodes: .*at most 1048576 GPUs"),
        ("cluster", {"memory_bytes": [[1e308, 1]]}, r"cluster.memory_bytes\[0, 0\]: .*1e\+18"),
        ("cluster", {"nodes": 10**400}, "nodes"),
        ("workload", {"output_tokens": [10**7, 0]}, r"output_tokens\[0\]: value 10000000; .*10485"),
        (
            "workload",
            {"prompt_tokens": [2**62, 1]},
            r"prompt_tokens\[0\]: value 46116860184",
        ),
        ("workload", {"batch": [1, 2**40]}, r"batch\[1\]: .* at most 2147483648"),
        ("workload", {"weight": [1, 1e308]}, r"workload.weight\[1\]: value 1e\+308; .*Divide all"),
        (
            "costs",
            {"forward_s": [[[1e308, 1]] * 2]},
            r"costs.forward_s\[0, 0, 0\]: .*at most 1e\+12",
        ),
        ("costs", {"held_bytes": [[[1e300, 1]] * 2]}, r"costs.held_bytes\[0, 0, 0\]: .*1e\+18"),
        ("costs", {"hop_s": []}, "hop_s: shape"),
        (None, {"micro_batches": 10**6, "pipeline": "gpipe"}, r"micro_batches: .*at most 4096"),
        (None, {"release_mode": "x" * 10**6}, "release_mode: 'xxx"),
        (None, {"tick_s": "1979-05-27"}, "tick_s: entries of type"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_number_beyond_its_limit_is_named_before_it_takes_memory(
    tmp_path: Path, plain: dict[str, Any], part: str | None, fields: Any, said: str, deep: bool
) -> None:
    at = plain if part is None else plain[part]
    at.update(dict.fromkeys(fields, "@") if deep else fields)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(plain).replace('"@"', DEEP))
    with pytest.raises(LemixError, match=rf"bad.json: {'' if deep else said}") as caught:
        read(path)
    assert len(str(caught.value)) < 700
    assert peak_bytes(lambda: read(path)) < 2**25


def test_too_many_operations_are_refused() -> None:
    work = Workload([1] * 1000, [0.0] * 1000, 1, 8)
    costs = Costs([[[0.1] * 100] * 1000], 0.1, 0.0, 0.0)
    with pytest.raises(LemixError, match=r"819200000 operations of 1000 tasks.*at most 268435456"):
        Instance(Cluster(1, 100, 1.0), work, costs, pipeline="gpipe", micro_batches=4096)


def test_tables_have_the_same_limits(tmp_path: Path) -> None:
    heavy = small(1e308)
    write(heavy, tmp_path / "i.zip")
    with pytest.raises(LemixError, match=r"i.zip: workload.weight\[0\]: value 1e\+308"):
        read(tmp_path / "i.zip")
    write_trace(Trace(heavy, heavy.costs, "synthetic", "by hand"), tmp_path / "t.zip")
    with pytest.raises(LemixError, match=r"t.zip: workload.weight\[0\]: value 1e\+308"):
        read_trace(tmp_path / "t.zip")


def test_what_a_library_prints_before_it_panics_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def panic(*_: Any, **__: Any) -> None:
        os.write(2, b"thread '<unnamed>' panicked at decode.rs:7\n")
        raise polars.exceptions.PanicException("index out of bounds")

    write(small(), tmp_path / "i.zip")
    monkeypatch.setattr(polars, "read_parquet", panic)
    with pytest.raises(LemixError, match=r"i.zip: tasks: damaged Parquet \(index"):
        read(tmp_path / "i.zip")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


@pytest.mark.parametrize("value", ["1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"])
@pytest.mark.parametrize("kept", ["load = 0.3", "tasks = 10", "seeds = [0, 1]", 'name = "jsq"'])
def test_dates_in_a_sweep_are_named(tmp_path: Path, value: str, kept: str) -> None:
    text = (Path(__file__).parent.parent / "docs" / "sweep-example.toml").read_text()
    name = kept.split(" =")[0]
    (tmp_path / "s.toml").write_text(text.replace(kept, f"{name} = {value}", 1))
    with pytest.raises(LemixError, match=rf"s.toml: .*{name}: the date or time .*quotes"):
        read_grid(tmp_path / "s.toml")


def test_deep_json_is_refused_by_every_reader(tmp_path: Path) -> None:
    for name in ("kineto", "otlp", "azure", "vllm", "nvidia-smi"):
        for content in ("[" * 10**5, '{"a":' * 10**5, '{"resourceSpans": ' + DEEP + "}"):
            (tmp_path / "deep").write_text(content)
            with pytest.raises(LemixError, match="deep"):
                READERS.create(name, path=tmp_path / "deep")
    for read_one in (read, read_schedule, read_loss_curve, read_suite):
        for content in ("[" * 10**5, '{"a":' * 10**5):
            (tmp_path / "deep").write_text(content)
            with pytest.raises(LemixError, match="deep"):
                read_one(tmp_path / "deep")
