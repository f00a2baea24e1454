"""Perfetto traces: valid events, no overlaps, memory as held."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances
from test_engine import build, run
from test_generation import requests

from experiments.perfetto import perfetto_trace, write_perfetto
from lemix_opt import Instance, simulate
from lemix_opt.policy import FixedAssignment
from lemix_opt.schedule import PHASES
from solvers.registry import POLICIES


def assert_no_overlaps(slices: list[dict[str, Any]]) -> None:
    """Slices of a track follow each other, in whole nanoseconds."""
    tracks = defaultdict(list)
    for event in slices:
        start = round(1000 * event["ts"])
        assert start == pytest.approx(1000 * event["ts"], abs=1e-3)
        end = start + round(1000 * event["dur"])
        tracks[event["pid"], event["tid"]].append((start, end))
    for track in tracks.values():
        for (_, end), (following, _) in pairwise(sorted(track)):
            assert end <= following


@given(instances(beyond=True), st.sampled_from(["jsq", "mix-rr"]))
@settings(max_examples=60, deadline=None)
def test_events_are_the_schedule(instance: Instance, name: str) -> None:
    schedule = simulate(instance, POLICIES.create(name))
    events = perfetto_trace(instance, schedule, "synthetic")["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == schedule.operations.rows
    times = [e["ts"] for e in events if e["ph"] != "M"]
    assert times == sorted(times)
    assert_no_overlaps(slices)
    memory = [e for e in events if e["ph"] == "C"]
    for event in memory:
        capacity = np.max(instance.capacity_bytes[event["pid"]]) / 2**30
        assert 0 <= event["args"]["in use"] <= capacity + 1e-6
    # Whatever is held is given back in the end, but for dropped tasks.
    if schedule.complete:
        last = {(e["pid"], e["name"]): e["args"]["in use"] for e in memory}
        for (node, counter), used in last.items():
            stage = int(counter.split()[1])
            resident = instance.resident_bytes[node, stage] / 2**30
            assert used == pytest.approx(resident, abs=1e-6)


def test_micro_batches_are_numbered_and_hold_their_shares() -> None:
    instance = build([1], [0.0], held=2.0**31, memory=2.0**32, pipeline="gpipe", micro_batches=2)
    events = perfetto_trace(instance, run(instance), "synthetic")["traceEvents"]
    names = [e["name"] for e in events if e["ph"] == "X" and e["tid"] == 0]
    assert names == ["F0.0", "F0.1", "B0.0", "B0.1"]
    held = [e["args"]["in use"] for e in events if e["ph"] == "C" and "stage 0" in e["name"]]
    assert held == [1.0, 2.0, 1.0, 0.0]


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_operations_that_share_a_gpu_have_tracks_of_their_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, 8).tolist()
    instance = build(
        kinds,
        np.sort(rng.uniform(0, 4, 8)).tolist(),
        gpu_order="fifo",
        gpu_sharing="reference_threads",
        memory=2.0**40,
    )
    schedule = run(instance)
    events = perfetto_trace(instance, schedule, "synthetic")["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == schedule.operations.rows
    assert_no_overlaps(slices)
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert len(set(names)) == len(names)
    # Every track is named, and its name says the stage of the operations on it.
    rows = schedule.operations
    stages = {
        (int(t), int(p), int(s)) for t, p, s in zip(rows.task, rows.phase, rows.stage, strict=True)
    }
    said = {
        (e["args"]["task"], PHASES.index(e["cat"].split()[1]), names[e["pid"], e["tid"]])
        for e in slices
    }
    assert {(t, p, int(name.split(",")[0].split()[1])) for t, p, name in said} == stages


@pytest.mark.parametrize("most", [None, 7])
def test_served_runs_show_iterations_batches_and_kv_memory(most: int | None) -> None:
    instance = requests([10, 5, 7], [3, 2, 4], [0.0, 0.5, 30.0])
    schedule = simulate(instance, FixedAssignment((0, 0, 0)))
    assert schedule.generated is not None
    turns = schedule.generated.iterations
    trace = perfetto_trace(instance, schedule, "synthetic", most)
    events = trace["traceEvents"]
    slices = [e for e in events if e["ph"] == "X" and e["cat"] == "iteration"]
    assert len(slices) == min(most or turns.rows, turns.rows)
    assert_no_overlaps(slices)
    for event in slices:
        row, said = event["args"]["iteration"], event["args"]
        assert event["ts"] == pytest.approx(1e6 * turns.start_s[row, 0])
        assert event["dur"] == pytest.approx(1e6 * (turns.end_s - turns.start_s)[row, 0])
        assert said["kv_tokens"] == turns.kv_tokens[row]
        assert said["batch"] == turns.prefills[row] + turns.decodes[row]
    batches = [e for e in events if e["ph"] == "C" and e["name"] == "batch size"]
    held = [e for e in events if e["ph"] == "C" and e["name"] == "KV memory tokens"]
    # One sample per iteration, and nothing where the node waits: before the last request.
    shown = [tuple(e["args"].values()) for e in batches]
    wanted = list(zip(turns.prefills.tolist(), turns.decodes.tolist(), strict=True))
    gap = next(k for k, at in enumerate(turns.start_s[:, 0]) if at >= 30)
    wanted = [*wanted[:gap], (0, 0), *wanted[gap:], (0, 0)]
    assert shown == wanted[: len(shown)]
    tokens = turns.kv_tokens.tolist()
    tokens = [*tokens[:gap], 0, *tokens[gap:], 0]
    assert [e["args"]["held"] for e in held] == tokens[: len(held)]
    gib = [e["args"]["held"] * 2**30 for e in events if e["name"] == "stage 0 KV memory GiB"]
    assert gib == pytest.approx([float(t) for t in tokens[: len(held)]])
    assert ("cut" in trace["otherData"]) == (len(slices) < turns.rows)
    if most is None:
        assert len(shown) == len(wanted)


@given(instances(max_tasks=3))
@settings(max_examples=5, deadline=None)
def test_files_are_json_and_repeatable(instance: Instance) -> None:
    import tempfile

    schedule = simulate(instance, POLICIES.create("jsq"))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.json.gz", "b.json.gz"):
            write_perfetto(instance, schedule, Path(folder) / name, "synthetic: drawn")
        first, second = (Path(folder, n).read_bytes() for n in ("a.json.gz", "b.json.gz"))
    assert first == second
    assert json.loads(gzip.decompress(first))["otherData"]["truth"] == "synthetic: drawn"


@pytest.mark.parametrize("most", [1, 2, 5, 1000])
def test_a_cut_trace_shows_what_starts_first_and_says_so(
    most: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    instance = build([1, 0, 1, 0], [0.0, 0.1, 0.2, 0.3], held=2.0**30, memory=2.0**32)
    schedule = run(instance)
    rows = schedule.operations
    whole = perfetto_trace(instance, schedule, "synthetic")
    write_perfetto(instance, schedule, tmp_path / "t.json", "synthetic", most)
    found = json.loads((tmp_path / "t.json").read_text())
    if most >= rows.rows:
        assert found == whole
        assert not caplog.text
        return
    until = np.sort(rows.start_s)[most - 1] * 1e6
    before = [
        e for e in whole["traceEvents"] if e["ph"] == "M" or (e["ts"] <= until and e["ph"] == "X")
    ]
    assert [e for e in found["traceEvents"] if e["ph"] in "MX"] == before
    # Memory up to the cut is that of the whole trace, not only of the operations shown.
    counters = [
        [e for e in t["traceEvents"] if e["ph"] == "C" and e["ts"] <= until] for t in (found, whole)
    ]
    assert counters[0] == counters[1]
    assert f"of {rows.rows} operations" in found["otherData"]["cut"]
    assert found["otherData"]["cut"] in caplog.text
    assert sum(e["name"].startswith("cut here") for e in found["traceEvents"]) == 1
