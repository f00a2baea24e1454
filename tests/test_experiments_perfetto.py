"""Perfetto traces: valid events, no overlaps, memory as held."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances
from test_engine import build, run

from experiments.perfetto import perfetto_trace, write_perfetto
from lemix_opt import Instance, simulate
from solvers.registry import POLICIES


@given(instances(beyond=True), st.sampled_from(["jsq", "mix-rr"]))
@settings(max_examples=60, deadline=None)
def test_events_are_the_schedule(instance: Instance, name: str) -> None:
    schedule = simulate(instance, POLICIES.create(name))
    events = perfetto_trace(instance, schedule, "synthetic")["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == schedule.operations.rows
    times = [e["ts"] for e in events if e["ph"] != "M"]
    assert times == sorted(times)
    lanes = defaultdict(list)
    for event in slices:
        lanes[event["pid"], event["tid"]].append((event["ts"], event["dur"]))
    for lane in lanes.values():
        lane.sort()
        for (start, length), (following, _) in pairwise(lane):
            assert start + length <= following + 1e-3
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
