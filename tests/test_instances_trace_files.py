"""Trace files come back bit by bit; damaged and hostile ones are refused by name."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fuzzing import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from strategies import generating
from strategies import instances as some
from test_kernel import Whimsical
from test_validation import valid

from instances.trace_files import read_header, read_recording, read_trace, write_trace
from lemix_opt import Instance, LemixError, Provenance, Recording, Trace, simulate
from lemix_opt.recording import LAYOUTS, TEXT, table
from solvers.registry import POLICIES

_FLOATS = st.floats(allow_infinity=False) | st.just(float("nan"))


@st.composite
def recordings(draw: st.DrawFn, truth: str = "recorded", source: str = "drawn") -> Recording:
    tables = {}
    for name, layout in LAYOUTS.items():
        rows = draw(st.integers(0, 4))
        kinds = {"int": st.integers(-(2**63), 2**63 - 1), "float": _FLOATS, TEXT: st.text()}
        columns: dict[str, Any] = {
            column: draw(st.lists(kinds[kind], min_size=rows, max_size=rows))
            for column, kind in layout.items()
        }
        if name == "spans":
            columns["start_s"] = np.sort(
                draw(st.lists(st.floats(-9, 9), min_size=rows, max_size=rows))
            )
            columns["end_s"] = columns["start_s"] + 1
        tables[name] = table(name, columns)
    words = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
    said = Provenance(
        truth, source, draw(st.text()), draw(words), draw(words), tuple(draw(st.lists(st.text())))
    )
    return Recording(said, **tables)


def again(content: Trace | Recording) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        write_trace(content, Path(folder) / "t.zip")
        first = (Path(folder) / "t.zip").read_bytes()
        write_trace(content, Path(folder) / "t.zip")
        assert (Path(folder) / "t.zip").read_bytes() == first
        reader: Callable[..., Any] = read_trace if isinstance(content, Trace) else read_recording
        return reader(Path(folder) / "t.zip")


@given(some(max_tasks=5) | generating(max_tasks=5), st.none() | recordings(), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_traces_come_back_equal(instance: Instance, recording: Recording | None, seed: int) -> None:
    schedule = simulate(instance, Whimsical(seed))
    slow = replace(instance.costs, forward_s=1.1 * instance.costs.forward_s)
    trace = Trace(instance, slow, "recorded", "drawn", schedule, recording)
    found = again(trace)
    assert (found.instance, found.actual, found.schedule) == (instance, slow, schedule)
    assert (found.truth, found.provenance, found.recording) == ("recorded", "drawn", recording)
    assert again(replace(trace, schedule=None)).schedule is None


@given(recordings())
@settings(max_examples=40, deadline=None)
def test_recordings_come_back_equal(recording: Recording) -> None:
    assert again(recording) == recording


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    instance = valid()[0]
    schedule = simulate(instance, POLICIES.create("mix-rr"))
    write_trace(Trace(instance, instance.costs, "profile", "p", schedule), tmp_path / "t.zip")
    with zipfile.ZipFile(tmp_path / "t.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def put(members: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    content = io.BytesIO()
    options = {"compression": "uncompressed"} | options
    pl.DataFrame(columns).write_parquet(content, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"provenance": {"truth": "by hand", "source": ""}}, "truth"),
        ({"problem": 3}, r"Expected `object \| null`, got `int` - at `\$\.problem`"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"format": "lemix-opt instance"}, "expected 'lemix-opt trace', version 2"),
        ({"version": [[1]]}, "version"),
        ({"problem": None}, "timelines only"),
        ({"recording": True}, "no 'spans.parquet' in it"),
        ({"generated": True}, "no 'iterations.parquet' in it"),
    ],
)
def test_a_damaged_header_is_named(
    members: dict[str, bytes], change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    plain = json.loads(members["trace.json"]) | change
    bad = put(members | {"trace.json": json.dumps(plain).encode()}, tmp_path / "bad.zip")
    with pytest.raises(LemixError, match=said) as caught:
        read_trace(bad)
    assert "bad.zip" in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 7, 10**18, 10**30])
@pytest.mark.parametrize("name", ["nodes", "stages", "classes"])
def test_sizes_that_the_tables_do_not_have_are_refused(
    members: dict[str, bytes], name: str, size: int, tmp_path: Path
) -> None:
    plain = json.loads(members["trace.json"])
    plain["problem"][name] = size
    bad = put(members | {"trace.json": json.dumps(plain).encode()}, tmp_path / "bad.zip")
    with pytest.raises(LemixError, match=r"bad\.zip"):
        read_trace(bad)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged Parquet"),
        (b"PAR1" * 9, "damaged Parquet"),
        (parquet({"task": [0]}), "columns task; expected task, node, end_state, release_s"),
        (
            parquet({"task": [1], "node": [0], "end_state": [0], "release_s": [0.0]}),
            r"1 rows; expected \d+ \(task\)",
        ),
        (
            parquet(
                {"task": [1], "node": [0], "end_state": [0], "release_s": [0.0]},
                compression="zstd",
            ),
            "compressed pages",
        ),
    ],
)
def test_a_damaged_table_is_named(
    members: dict[str, bytes], content: bytes, said: str, tmp_path: Path
) -> None:
    bad = put(members | {"placed.parquet": content}, tmp_path / "bad.zip")
    with pytest.raises(LemixError, match=said) as caught:
        read_trace(bad)
    assert "bad.zip: placed" in str(caught.value)


def test_costs_that_are_refused_are_named_with_their_file(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    for side in ("predicted", "actual"):
        stages = pl.read_parquet(members["stages.parquet"]).with_columns(
            pl.lit(-1.0).alias(f"{side}_update_s")
        )
        content = parquet(stages.to_dict(as_series=False), compression="uncompressed")
        bad = put(members | {"stages.parquet": content}, tmp_path / "bad.zip")
        with pytest.raises(LemixError, match=r"bad\.zip.*update_s.*-1"):
            read_trace(bad)


def test_few_bytes_that_stand_for_many_rows_are_refused(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    rows = 3_000_000
    # Equal strings become one entry of a dictionary and one run.
    zeros = parquet({n: ["x"] * rows for n in ("task", "stage", "node", "time_s")})
    assert len(zeros) < 20_000
    bad = put(members | {"out_of_memory.parquet": zeros}, tmp_path / "bad.zip")
    with pytest.raises(LemixError, match="3000000 rows of 4 columns; expected a table of at most"):
        read_trace(bad, max_bytes=2**26)


def test_a_zip_bomb_is_stopped_before_it_is_unpacked(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    bad = put(members | {"placed.parquet": bytes(2**25)}, tmp_path / "bad.zip")
    assert bad.stat().st_size < 2**17
    with pytest.raises(LemixError, match="more than 16777216 bytes"):
        read_trace(bad, max_bytes=2**24)


@given(data=st.data())
@settings(max_examples=examples(300), deadline=None)
def test_mutated_members_are_refused_or_read(data: st.DataObject) -> None:
    """A changed byte behind the zip's checksum ends in a trace or in a LemixError."""
    kept = _kept()
    name = data.draw(st.sampled_from(sorted(kept)))
    content = bytearray(kept[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        bad = put(kept | {name: bytes(content)}, Path(folder) / "bad.zip")
        said = refusal(lambda: read_trace(bad, max_bytes=2**24))
        assert said is None or "bad.zip" in said


def _kept() -> dict[str, bytes]:
    if not _KEPT:
        instance = valid()[0]
        schedule = simulate(instance, POLICIES.create("mix-rr"))
        spans = table("spans", {"phase": ["forward"], "start_s": [0.0], "end_s": [1.0]})
        recording = Recording(Provenance("recorded", "x"), spans)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.zip"
            write_trace(Trace(instance, instance.costs, "recorded", "x", schedule, recording), path)
            with zipfile.ZipFile(path) as archive:
                _KEPT.update({name: archive.read(name) for name in archive.namelist()})
    return _KEPT


_KEPT: dict[str, bytes] = {}


@given(st.binary(max_size=200))
@settings(max_examples=examples(100), deadline=None)
def test_any_bytes_are_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / "bad.zip"
        bad.write_bytes(content)
        with pytest.raises(LemixError, match=r"bad\.zip"):
            read_header(bad)


def test_a_computed_trace_has_no_timelines_and_says_what_made_it(tmp_path: Path) -> None:
    instance = valid()[0]
    write_trace(Trace(instance, instance.costs, "synthetic", "p"), tmp_path / "t.zip")
    with pytest.raises(LemixError, match=r"t\.zip: no timelines"):
        read_recording(tmp_path / "t.zip")
    said = read_header(tmp_path / "t.zip").provenance
    assert (said.truth, said.source) == ("synthetic", "p")
    assert "polars" in said.tools
