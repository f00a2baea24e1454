"""Instances and schedules as tables: when they are chosen, what is refused."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from test_validation import valid

from instances import read, table_zip, write
from instances.schedule_files import read_schedule, write_schedule
from instances.trace_files import write_trace
from lemix_opt import Cluster, Costs, Instance, LemixError, Trace, Workload, simulate
from solvers.registry import POLICIES

Reader = Callable[..., Any]
READERS: dict[str, Reader] = {"instance": read, "schedule": read_schedule}


def put(members: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def members_of(kind: str) -> dict[str, bytes]:
    instance = valid()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.zip"
        if kind == "instance":
            write(instance, path)
        else:
            write_schedule(simulate(instance, POLICIES.create("mix-rr")), path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


KEPT = {kind: members_of(kind) for kind in READERS}


def test_the_ending_says_the_form_else_the_number_of_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = valid()[0]
    schedule = simulate(instance, POLICIES.create("mix-rr"))
    for most, form in ((instance.tasks, b"{"), (instance.tasks - 1, b"P")):
        monkeypatch.setattr(table_zip, "MOST_IN_JSON", most)
        endings = {".json": b"{", ".json.gz": b"\x1f", ".zip": b"P", "": form, ".lemix": form}
        for ending, begins in endings.items():
            write(instance, tmp_path / f"i{ending}")
            write_schedule(schedule, tmp_path / f"s{ending}")
            assert (tmp_path / f"i{ending}").read_bytes()[:1] == begins
            assert (tmp_path / f"s{ending}").read_bytes()[:1] == begins
            assert read(tmp_path / f"i{ending}") == instance
            assert read_schedule(tmp_path / f"s{ending}") == schedule


def test_tables_are_known_by_their_content(tmp_path: Path) -> None:
    instance = valid()[0]
    write(instance, tmp_path / "a.zip")
    (tmp_path / "a.zip").rename(tmp_path / "a.json")
    assert read(tmp_path / "a.json") == instance


def test_origin_and_tasks_without_slo_survive_tables(tmp_path: Path) -> None:
    work = Workload([0, 0], [0.0, 0.5], 1, 8, slo_s=[np.inf, 2.0], origin_ns=2**62 + 1)
    costs = Costs(np.full((1, 2, 1), 0.05), 0.0, 0.0, 0.0)
    instance = Instance(Cluster(1, 1, 1.0), work, costs)
    write(instance, tmp_path / "a.zip")
    assert read(tmp_path / "a.zip") == instance
    assert read(tmp_path / "a.zip").workload.origin_ns == 2**62 + 1


def test_large_tables_are_stored_unless_asked_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_zip, "LARGE_BYTES", 100)
    instance = valid()[0]
    for name, compress in (("auto", None), ("packed", True), ("stored", False)):
        write(instance, tmp_path / f"{name}.zip", compress=compress)
        assert read(tmp_path / f"{name}.zip") == instance
    sizes = [(tmp_path / f"{n}.zip").stat().st_size for n in ("packed", "auto", "stored")]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("instance", {"problem": None}, "problem"),
        ("instance", {"problem": []}, "problem"),
        ("instance", {"extra": 1}, "unknown field `extra`"),
        ("instance", {"version": 7}, "expected 'lemix-opt instance', version 1"),
        ("instance", {"format": "lemix-opt trace"}, "expected 'lemix-opt instance', version 1"),
        ("schedule", {"tasks": -1}, "tasks: -1; expected a possible number"),
        ("schedule", {"tasks": 10**30}, "tasks"),
        ("schedule", {"tasks": 2}, r"placed: \d+ rows; expected 2 \(task\)"),
        ("schedule", {"stages": 10**30}, "stages"),
        ("schedule", {"generated": True}, "stages: 0; expected a possible number"),
        ("schedule", {"generated": True, "stages": 1}, "no 'iterations.parquet' in it"),
        ("schedule", {"version": [[1]]}, "version"),
    ],
)
def test_a_damaged_header_is_named(
    kind: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    name = f"{kind}.json"
    plain = json.loads(KEPT[kind][name]) | change
    bad = put(KEPT[kind] | {name: json.dumps(plain).encode()}, tmp_path / "bad.zip")
    with pytest.raises(LemixError, match=said) as caught:
        READERS[kind](bad)
    assert "bad.zip" in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 7, 10**18, 10**30])
@pytest.mark.parametrize("name", ["nodes", "stages", "classes", "predicted_knots"])
def test_sizes_that_the_tables_do_not_have_are_refused(
    name: str, size: int, tmp_path: Path
) -> None:
    plain = json.loads(KEPT["instance"]["instance.json"])
    if plain["problem"][name] == size:
        return
    plain["problem"][name] = size
    content = json.dumps(plain).encode()
    bad = put(KEPT["instance"] | {"instance.json": content}, tmp_path / "bad.zip")
    with pytest.raises(LemixError, match=r"bad\.zip"):
        read(bad)


def test_one_kind_of_file_is_not_another(tmp_path: Path) -> None:
    instance = valid()[0]
    write_trace(Trace(instance, instance.costs, "synthetic", "x"), tmp_path / "t.zip")
    write(instance, tmp_path / "i.zip")
    for reader, name in ((read, "t.zip"), (read_schedule, "t.zip"), (read_schedule, "i.zip")):
        with pytest.raises(
            LemixError, match=rf"{name}: no '\w+.json' in it; expected an? \w+ file"
        ):
            reader(tmp_path / name)


@pytest.mark.parametrize("kind", READERS)
def test_bombs_are_stopped_before_they_are_unpacked(kind: str, tmp_path: Path) -> None:
    name = {"instance": "costs.parquet", "schedule": "placed.parquet"}[kind]
    bad = put(KEPT[kind] | {name: bytes(2**25)}, tmp_path / "bad.zip")
    with pytest.raises(LemixError, match="more than 16777216 bytes"):
        READERS[kind](bad, max_bytes=2**24)


@given(st.sampled_from(sorted(READERS)), st.data())
@settings(max_examples=examples(300), deadline=None)
def test_mutated_members_are_refused_or_read(kind: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(KEPT[kind])))
    content = bytearray(KEPT[kind][name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        bad = put(KEPT[kind] | {name: bytes(content)}, Path(folder) / "bad.zip")
        said = refusal(lambda: READERS[kind](bad, max_bytes=2**24))
        assert said is None or "bad.zip" in said


@given(st.binary(max_size=200))
@settings(max_examples=examples(100), deadline=None)
def test_any_bytes_are_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / "bad.zip"
        for begins in (b"", b"PK\x03\x04"):
            bad.write_bytes(begins + content)
            for reader in READERS.values():
                with pytest.raises(LemixError, match=r"bad\.zip"):
                    reader(bad)


def test_an_instance_of_many_tasks_comes_back_without_an_ending(tmp_path: Path) -> None:
    tasks = table_zip.MOST_IN_JSON + 1
    work = Workload(np.zeros(tasks, int), np.arange(tasks) / 8, 1, 8)
    costs = Costs(np.full((1, tasks, 2), 0.05), 0.0, 0.0, 0.0)
    instance = Instance(Cluster(2, 2, 1.0), work, costs)
    write(instance, tmp_path / "many")
    assert zipfile.is_zipfile(tmp_path / "many")
    assert read(tmp_path / "many") == instance
    assert read(tmp_path / "many") != replace(instance, fifo=True)
