"""PyTorch profiler traces: phases by launch, steps, ranks, and hostile JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import mutated, peak_bytes, refused_by_name_or_read
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_data import DATA, needs_data
from profiles import examples

from instances.recordings.kineto import read_kineto
from instances.recordings.steps import devices_of, merge, steps_of
from lemix_opt import LemixError
from lemix_opt.recording import table


def event(cat: str, name: str, ts: float, dur: float, tid: int = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid, "args": args}


def launched(number: int, at: float, tid: int, name: str, ts: float, dur: float) -> list[Any]:
    return [
        event("cuda_runtime", "cudaLaunchKernel", at, 1, tid, correlation=number),
        event("kernel", name, ts, dur, 7, correlation=number, device=0, stream=7),
    ]


def step(rank: int | None = 0, base: int | None = 10**18) -> dict[str, Any]:
    """One step: forward 100-200, backward on another thread, NCCL beside it, optimizer."""
    events = [
        {"ph": "M", "name": "process_name", "pid": 1},
        event("user_annotation", "ProfilerStep#3", 1000, 900),
        event("user_annotation", "## forward ##", 1000, 100),
        event("cpu_op", "autograd::engine::evaluate_function: MulBackward0", 1150, 300, 2),
        event("user_annotation", "Optimizer.step#SGD.step", 1500, 100),
        *launched(1, 1010, 1, "gemm", 1100, 100),
        *launched(2, 1160, 2, "gemm_bw", 1200, 200),
        *launched(3, 1170, 2, "ncclDevKernel_AllReduce", 1350, 100),
        *launched(4, 1510, 1, "sgd", 1550, 50),
        *launched(5, 1700, 1, "memset", 1700, 20),
    ]
    plain: dict[str, Any] = {"schemaVersion": 1, "traceEvents": events}
    if rank is not None:
        plain["distributedInfo"] = {"backend": "nccl", "rank": rank}
    if base is not None:
        plain["baseTimeNanoseconds"] = base
    return plain


def put(path: Path, plain: Any) -> Path:
    path.write_bytes(json.dumps(plain).encode())
    return path


def test_times_of_a_step_add_up(tmp_path: Path) -> None:
    found = read_kineto(put(tmp_path / "t.json", step()))
    (row,) = steps_of(found.spans)
    us = {key: round(1e6 * value) for key, value in row.items() if key.endswith("_s")}
    assert us == {
        "step_s": 900,
        "gpu_s": 620,
        "forward_s": 100,
        "backward_s": 200,
        "communication_s": 100,
        "update_s": 50,
        "other_s": 20,
        "communication_alone_s": 50,
        "idle_s": 620 - 100 - 250 - 50 - 20,
    }
    assert (row["rank"], row["step"]) == (0, 3)


def test_ranks_are_put_on_one_clock(tmp_path: Path) -> None:
    first = put(tmp_path / "0.json", step(0))
    second = put(tmp_path / "1.json", step(1, 10**18 + 500_000))
    found = read_kineto([first, second])
    starts = [row["start_s"] for row in _rows(found.spans) if row["name"] == "gemm"]
    assert np.diff(starts) == pytest.approx(500e-6)
    assert [row["rank"] for row in steps_of(found.spans)] == [0, 1]
    with pytest.raises(LemixError, match=r"ranks \[0, 0\]; expected distributedInfo.rank"):
        read_kineto([first, first])


def _rows(table: Any) -> list[dict[str, Any]]:
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def test_what_the_trace_does_not_say_is_not_made_up(tmp_path: Path) -> None:
    plain = step(None, None)
    kept = ("ProfilerStep", "## forward", "cudaLaunch")
    plain["traceEvents"] = [
        e for e in plain["traceEvents"] if not e["name"].startswith(kept) and e["ph"] == "X"
    ]
    found = read_kineto(put(tmp_path / "t.json", plain))
    assert set(found.spans["task"].tolist()) == {-1}
    assert set(found.spans["node"].tolist()) == {-1}
    assert sorted(found.spans["phase"].tolist()) == ["communication", *["other"] * 4]
    said = "; ".join(found.provenance.warnings)
    for part in ("5 kernels without a launch", "no ProfilerStep", "no annotation of the forward"):
        assert part in said
    assert "not recorded" in found.provenance.clock


def test_a_trace_of_a_processor_has_its_outermost_operators(tmp_path: Path) -> None:
    events = [
        event("user_annotation", "ProfilerStep#0", 0, 100),
        event("cpu_op", "aten::linear", 10, 20),
        event("cpu_op", "aten::addmm", 12, 10),
        event("cpu_op", "autograd::engine::evaluate_function: X", 40, 20, 2),
    ]
    found = read_kineto(put(tmp_path / "t.json", {"traceEvents": events}))
    assert found.spans["name"].tolist()[:2] == ["aten::linear", events[3]["name"]]
    assert found.spans["phase"].tolist() == ["forward", "backward", "step"]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=12))
def test_merged_intervals_cover_the_same_moments(drawn: list[tuple[int, int]]) -> None:
    spans = np.array(sorted((a, a + n) for a, n in drawn), dtype=float).reshape(-1, 2)
    merged = merge(spans)
    for at in np.arange(0, 40, 0.5):
        inside = ((spans[:, 0] <= at) & (at <= spans[:, 1])).any()
        assert ((merged[:, 0] <= at) & (at <= merged[:, 1])).any() == inside
    assert (merged[1:, 0] > merged[:-1, 1]).all()


@needs_data
def test_the_recorded_training_steps() -> None:
    found = read_kineto(DATA / "kineto" / "a100_ddp_training_rank0.json.gz")
    rows = steps_of(found.spans)
    assert [row["step"] for row in rows] == [4, 5, 6]
    for row in rows:
        assert 0.21 < row["step_s"] < 0.23
        assert 1.5 < row["backward_s"] / row["forward_s"] < 2.5
        assert 0.6 < row["idle_s"] / row["gpu_s"] < 0.9
        assert row["communication_alone_s"] <= row["communication_s"]
    assert found.provenance.warnings == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "t.json:1: not JSON"),
        (b"{}", "missing required field `traceEvents`"),
        (b'{"traceEvents": []}', "no kernels and no operators"),
        (b'{"traceEvents":\n[\n{"ph": "X", "name": }]}', "t.json:3: not JSON"),
        (
            b'{"traceEvents": [{"ph": "X", "name": "a", "ts": 1}]}',
            r"traceEvents\[0\] 'a' has ts 1, dur m",
        ),
        (b'{"traceEvents": [{"ph": "X", "ts": 1, "dur": -2}]}', "times that cannot be"),
        (b'{"traceEvents": [{"ph": 3}]}', r"Expected `str`, got `int` - at `\$.traceEvents"),
        (b'{"traceEvents": ' + b"[" * 10**6, "t.json:1: "),
        (b'{"x": ' + b"[" * 10**6, "nested too deeply"),
        (b'{"traceEvents": [' + b"{}," * 10**5, "up to 100001 JSON objects; expected at most 1000"),
        (b'{"traceEvents": [{"ph": "\xff"}]}', "t.json:1: "),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(LemixError, match=said) as caught:
        read_kineto(tmp_path / "t.json", max_objects=1000)
    assert "t.json" in str(caught.value)


def test_a_gzip_bomb_takes_no_more_than_the_limit(tmp_path: Path) -> None:
    bomb = b'{"traceEvents": [' + b" " * 2**27
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(bomb, 9))
    assert peak_bytes(lambda: read_kineto(tmp_path / "t.json.gz", max_bytes=2**20)) < 2**23
    with pytest.raises(LemixError, match="more than 1048576 bytes"):
        read_kineto(tmp_path / "t.json.gz", max_bytes=2**20)


@given(st.data())
@settings(max_examples=examples(200), deadline=None)
def test_mutated_traces(data: st.DataObject) -> None:
    content = mutated(data, json.dumps(step()).encode(), lines=False)
    refused_by_name_or_read(read_kineto, content, ".json")


@needs_data
@given(st.data())
@settings(max_examples=examples(15), deadline=None)
def test_mutated_real_traces(data: st.DataObject) -> None:
    packed = (DATA / "kineto" / "a100_ddp_training_rank0.json.gz").read_bytes()
    if data.draw(st.booleans()):
        refused_by_name_or_read(read_kineto, mutated(data, packed, lines=False), ".json.gz")
    else:
        plain = gzip.decompress(packed)[:400_000]
        refused_by_name_or_read(read_kineto, mutated(data, plain, lines=False), ".json")


def test_a_mark_of_byte_order_is_no_content(tmp_path: Path) -> None:
    put(tmp_path / "t.json", step())
    marked = tmp_path / "m.json"
    marked.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "t.json").read_bytes())
    assert read_kineto(marked).spans.rows == read_kineto(tmp_path / "t.json").spans.rows


drawn_spans = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(-1, 2),
        st.integers(0, 1),
        st.sampled_from(["step", "forward", "backward", "update", "communication", "other"]),
        st.integers(0, 12),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=25,
)


@given(drawn_spans)
@settings(max_examples=150, deadline=None)
def test_times_of_steps_are_counts_of_seconds(drawn: list[Any]) -> None:
    names = ("node", "task", "device", "phase", "start_s")
    columns = {name: [row[k] for row in drawn] for k, name in enumerate(names)}
    ends = [row[4] + row[5] for row in drawn]
    recorded = table("spans", columns | {"end_s": [float(end) for end in ends]})
    found = steps_of(recorded)
    work = [row for row in drawn if row[3] != "step"]
    keys = sorted({row[:3] for row in work if row[1] >= 0})
    assert [(row["rank"], row["step"], row["device"]) for row in found] == keys

    def moments(rows: list[Any]) -> set[int]:
        return {s for row in rows for s in range(row[4], row[4] + row[5])}

    for said, (node, task, device) in zip(found, keys, strict=True):
        here = [row for row in work if (row[0], row[2]) == (node, device)]
        mine = [row for row in here if row[1] == task]
        computing = moments([row for row in here if row[3] != "communication"])
        for phase in ("forward", "backward", "update", "communication", "other"):
            of_phase = [row for row in here if row[3] == phase]
            own = moments([row for row in of_phase if row[1] == task])
            own -= moments([row for row in of_phase if 0 <= row[1] < task])
            assert said[f"{phase}_s"] == len(own)
        assert said["communication_alone_s"] == len(
            moments([row for row in mine if row[3] == "communication"])
            - moments([row for row in here if 0 <= row[1] < task and row[3] == "communication"])
            - computing
        )
        assert said["communication_alone_s"] <= said["communication_s"]
        steps = [row for row in drawn if (*row[:2], row[3]) == (node, task, "step")]
        assert said["step_s"] == len(moments(steps)) if steps else np.isnan(said["step_s"])
    # Sums over the steps of a device are times of that device.
    for node, device in {(key[0], key[2]) for key in keys}:
        here = [row for row in work if (row[0], row[2]) == (node, device)]
        rows = [row for row in found if (row["rank"], row["device"]) == (node, device)]
        windows: set[int] = set()
        for task in {row[1] for row in here if row[1] >= 0}:
            mine = [row for row in here if row[1] == task]
            windows |= set(range(min(r[4] for r in mine), max(r[4] + r[5] for r in mine)))
        assert sum(row["gpu_s"] for row in rows) == len(windows)
        assert sum(row["idle_s"] for row in rows) == len(windows - moments(here))
        (whole,) = [
            row for row in devices_of(recorded) if (row["rank"], row["device"]) == (node, device)
        ]
        assert whole["busy_s"] == len(moments(here))
        assert sum(row["idle_s"] for row in rows) <= whole["idle_s"]
