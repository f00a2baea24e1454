"""PyTorch profiler traces as people have them: overlaps, odd stamps, other runtimes and forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import refused_by_name_or_read
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from test_recordings_kineto import event, launched, put
from test_recordings_kineto import step as same_stream

from instances.recordings.kineto import read_kineto
from instances.recordings.steps import devices_of, steps_of
from lemix_opt import LemixError

EPOCH_US = 1735632360000000


def step(rank: int | None = 0) -> dict[str, Any]:
    """The usual step, NCCL on a stream of its own."""
    plain = same_stream(rank)
    for e in plain["traceEvents"]:
        if "nccl" in e["name"]:
            e["tid"] = e["args"]["stream"] = 9
    return plain


def us(row: dict[str, float]) -> dict[str, float]:
    return {key[:-2]: round(1e6 * row[key], 3) for key in row if key.endswith("_s")}


def said_of(path: Path, **options: Any) -> str:
    return "; ".join(read_kineto(path, **options).provenance.warnings)


def changed(**fields: Any) -> dict[str, Any]:
    """The usual step with some fields of its `gemm` changed."""
    plain = step()
    (kernel,) = [e for e in plain["traceEvents"] if e.get("name") == "gemm"]
    kernel |= fields
    return plain


def without(plain: dict[str, Any], name: str) -> dict[str, Any]:
    kept = [e for e in plain["traceEvents"] if e["name"] != name]
    return plain | {"traceEvents": kept}


def same_times(found: Any, plain: dict[str, Any], folder: Path) -> bool:
    usual = read_kineto(put(folder / "usual.json", plain))
    return [us(row) for row in steps_of(found.spans)] == [us(row) for row in steps_of(usual.spans)]


def test_no_moment_counts_for_two_steps(tmp_path: Path) -> None:
    plain = {
        "traceEvents": [
            event("user_annotation", "ProfilerStep#1", 0, 100),
            event("user_annotation", "ProfilerStep#2", 100, 100),
            *launched(1, 10, 1, "gemm", 20, 30),
            *launched(2, 15, 1, "ncclDevKernel_AllReduce", 150, 80),
            *launched(3, 110, 1, "gemm", 120, 20),
            *launched(4, 120, 1, "gemm", 240, 20),
        ]
    }
    for e in plain["traceEvents"]:
        e["args"] |= {"stream": 9} if "nccl" in e["name"] else {}
    found = read_kineto(put(tmp_path / "t.json", plain))
    first, second = map(us, steps_of(found.spans))
    wanted = ("gpu", "other", "communication", "communication_alone", "idle")
    assert [first[key] for key in wanted] == [190, 30, 80, 80, 80]
    assert [second[key] for key in wanted] == [50, 40, 0, 0, 10]
    (device,) = devices_of(found.spans)
    assert us(device) == {"length": 240, "busy": 150, "idle": 90}


@pytest.mark.parametrize("correlation", [0, "0", None, 99])
def test_communication_of_no_step_is_of_no_step(tmp_path: Path, correlation: Any) -> None:
    plain = step()
    (nccl,) = [e for e in plain["traceEvents"] if "nccl" in e["name"]]
    nccl["args"]["correlation"] = correlation
    found = read_kineto(put(tmp_path / "t.json", plain))
    (row,) = map(us, steps_of(found.spans))
    assert (row["communication"], row["communication_alone"], row["idle"]) == (0, 0, 200)
    assert "1 kernels without a launch" in said_of(tmp_path / "t.json")


def test_repeated_and_nested_step_annotations_count_once(tmp_path: Path) -> None:
    plain = step()
    plain["traceEvents"] += [
        event("cpu_op", "ProfilerStep#3", 1000, 900),
        event("gpu_user_annotation", "ProfilerStep#3", 1100, 5000, 7),
        event("user_annotation", "ProfilerStep#7", 1020, 10),
    ]
    found = read_kineto(put(tmp_path / "t.json", plain))
    (row,) = steps_of(found.spans)
    assert us(row)["step"] == 900
    assert (found.spans["phase"] == "step").sum() == 2
    assert found.provenance.warnings == ()


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("digits", ["", ".1", ".112", ".1124", ".112999999"])
def test_times_are_exact_at_the_age_of_the_world(
    tmp_path: Path, digits: str, as_text: bool
) -> None:
    text = json.dumps(step()).replace('"ts": ', f'"ts": {str(EPOCH_US)[:-4]}')
    for at in (1100, 1200, 1350, 1550, 1700):
        text = text.replace(f"{at},", f"{at}{digits},")
    text = text.replace('"dur": 100, "tid": 7', '"dur": 2.112, "tid": 7')
    if as_text:
        text = text.replace('"dur": 2.112', '"dur": "2.112"')
    (tmp_path / "t.json").write_text(text)
    found = read_kineto(tmp_path / "t.json")
    lengths = found.spans["end_s"] - found.spans["start_s"]
    gemm = found.spans["name"] == "gemm"
    assert lengths[gemm] == pytest.approx([2.112e-6], abs=1e-13)
    starts = found.spans["start_s"][gemm]
    below = round(float(f"0{digits}" if digits else 0) * 1000)
    assert starts == pytest.approx([(100_000 + below) * 1e-9], abs=1e-13)


@pytest.mark.parametrize("ts", [0, 0.0, "0", 10**15])
@pytest.mark.parametrize("cat", ["kernel", "gpu_memcpy", "cpu_op", "user_annotation"])
def test_one_far_stamp_does_not_define_the_clock(tmp_path: Path, ts: Any, cat: str) -> None:
    plain = step()
    for e in plain["traceEvents"]:
        if "ts" in e:
            e["ts"] += 4203669604187
    whole = json.loads(json.dumps(plain))
    plain["traceEvents"].append(event(cat, "lost", ts, 0, 7, correlation=77, device=0))
    found = read_kineto(put(tmp_path / "t.json", plain))
    assert same_times(found, whole, tmp_path)
    (warning,) = found.provenance.warnings
    assert "1 event left out, time stamps far from all others" in warning
    assert "'lost'" in warning


def test_a_kernel_does_not_begin_before_its_launch(tmp_path: Path) -> None:
    plain = step()
    for e in plain["traceEvents"]:
        if "ts" in e:
            e["ts"] += 5_000_000
    whole = json.loads(json.dumps(plain))
    plain["traceEvents"] += launched(77, 5_001_700, 1, "lost", 17, 1)
    found = read_kineto(put(tmp_path / "t.json", plain))
    assert same_times(found, whole, tmp_path)
    assert "'lost' at 17 us" in said_of(tmp_path / "t.json")


def test_a_trace_that_begins_at_zero_is_kept(tmp_path: Path) -> None:
    plain = step()
    for e in plain["traceEvents"]:
        if "ts" in e:
            e["ts"] -= 1000
    found = read_kineto(put(tmp_path / "t.json", plain))
    assert same_times(found, step(), tmp_path)
    assert found.provenance.warnings == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"dur": -1},
        {"dur": -1660000000000000},
        {"dur": None},
        {"dur": "a while"},
        {"dur": 1e300},
        {"ts": None},
        {"ts": [1]},
        {"ts": "1e999999999"},
        {"name": 3},
        {"args": "text"},
    ],
)
def test_one_odd_event_does_not_refuse_the_file(tmp_path: Path, fields: dict[str, Any]) -> None:
    found = read_kineto(put(tmp_path / "t.json", changed(**fields)))
    assert same_times(found, without(step(), "gemm"), tmp_path)
    (warning,) = found.provenance.warnings
    assert "1 event left out" in warning
    assert "traceEvents[6]" in warning


@pytest.mark.parametrize("token", ["inf", "-inf", "nan", "-nan", "NaN", "-Infinity", "-nan(ind)"])
@pytest.mark.parametrize("array", [False, True])
def test_numbers_that_json_lacks_are_not_recorded(tmp_path: Path, token: str, array: bool) -> None:
    plain = step()
    plain["traceEvents"][2]["name"] = 'a ": inf, b'
    usual = json.dumps(plain["traceEvents"] if array else plain)
    text = usual.replace('"stream": 7}', f'"stream": 7, "GB/s": {token}}}', 2)
    (tmp_path / "t.json").write_text(text)
    found = read_kineto(tmp_path / "t.json")
    (tmp_path / "usual.json").write_text(usual)
    assert found.spans.rows == read_kineto(tmp_path / "usual.json").spans.rows
    assert "2 values that JSON lacks" in said_of(tmp_path / "t.json")


def test_overlaps_of_one_stream_are_said(tmp_path: Path) -> None:
    said = said_of(put(tmp_path / "t.json", changed(dur=900_000)))
    assert "3 kernels overlap others of their own stream" in said
    assert "'gemm' on device 0, stream 7 ends 899900 us after 'gemm_bw' begins" in said
    elsewhere = changed(dur=900_000, args={"correlation": 1, "device": 0, "stream": 8})
    assert "overlap" not in said_of(put(tmp_path / "t.json", elsewhere))


@pytest.mark.parametrize(
    "category",
    [
        *("cuda_driver", "hip_runtime", "mtia_runtime", "xpu_runtime", "xpu_driver"),
        *("privateuse1_runtime", "privateuse1_driver", "glow_runtime", "Runtime"),
    ],
)
def test_launches_of_any_runtime(tmp_path: Path, category: str) -> None:
    text = json.dumps(step()).replace("cuda_runtime", category)
    (tmp_path / "t.json").write_text(text)
    found = read_kineto(tmp_path / "t.json")
    assert same_times(found, step(), tmp_path)
    assert found.provenance.warnings == ()


def test_categories_of_early_versions(tmp_path: Path) -> None:
    text = json.dumps(step())
    for new, old in (
        ("user_annotation", "Operator"),
        ("cpu_op", "Operator"),
        ("cuda_runtime", "Runtime"),
        ('"kernel"', '"Kernel"'),
    ):
        text = text.replace(new, old)
    (tmp_path / "t.json").write_text(text)
    assert same_times(read_kineto(tmp_path / "t.json"), step(), tmp_path)


def test_work_of_unknown_categories_is_named_and_no_gpu_time(tmp_path: Path) -> None:
    text = json.dumps(step()).replace('"kernel"', '"mtia_ccp_events"')
    text = text.replace("cuda_runtime", "mtia_runtime")
    (tmp_path / "t.json").write_text(text)
    found = read_kineto(tmp_path / "t.json")
    said = "; ".join(found.provenance.warnings)
    assert "not read, of unknown category: 5 mtia_ccp_events" in said
    assert "no GPU that this reader knows" in said
    assert all("gpu_s" not in row and "cpu_s" in row for row in steps_of(found.spans))


def test_devices_and_streams(tmp_path: Path) -> None:
    plain = step()
    for e in plain["traceEvents"]:
        if e.get("cat") == "kernel" and e["name"] in ("gemm_bw", "sgd"):
            e["args"]["device"] = 1
        if e.get("name") == "memset":
            e["cat"], e["pid"] = "gpu_memset", 2
            del e["args"]["device"]
    rows = steps_of(read_kineto(put(tmp_path / "t.json", plain)).spans)
    assert [(row["device"], us(row)["gpu"]) for row in rows] == [(0, 350), (1, 400), (2, 20)]
    assert [us(row)["communication_alone"] for row in rows] == [100, 0, 0]


@pytest.mark.parametrize("array", [False, True])
def test_begin_and_end_events_are_read(tmp_path: Path, array: bool) -> None:
    events: list[dict[str, Any]] = []
    for e in step()["traceEvents"]:
        if e["ph"] == "X":
            begin = {key: value for key, value in e.items() if key != "dur"} | {"ph": "B"}
            end = {"ph": "E", "tid": e["tid"], "ts": e["ts"] + e["dur"]}
            events += [begin, end]
    events.sort(key=lambda e: (e["ts"], e["ph"] == "B"))
    found = read_kineto(put(tmp_path / "t.json", events if array else {"traceEvents": events}))
    assert same_times(found, step(), tmp_path) or array
    assert us(steps_of(found.spans)[0])["gpu"] == 620
    plain = {"traceEvents": [*events, {"ph": "B", "name": "open", "cat": "cpu_op", "ts": 1}]}
    assert "'open' never ends" in said_of(put(tmp_path / "t.json", plain))


def test_events_without_category_are_named(tmp_path: Path) -> None:
    events = [{"name": "aten::mul", "ph": "X", "ts": 1, "dur": 5, "pid": "CPU functions"}]
    for plain in (events, {"traceEvents": events}):
        with pytest.raises(LemixError, match=r"1 without category.*torch\.profiler"):
            read_kineto(put(tmp_path / "t.json", plain))


def test_ranks_can_be_given(tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{name}.json", step(None)) for name in "ab"]
    with pytest.raises(LemixError, match="--set ranks=0,1"):
        read_kineto(paths)
    for ranks in ("3,1", "[3, 1]", [3, 1]):
        found = read_kineto(paths, ranks=ranks)
        assert [row["rank"] for row in steps_of(found.spans)] == [1, 3]
    assert set(read_kineto(paths[0], ranks="5").spans["node"].tolist()) == {5}
    for wrong in ("0", "0,0", "0,-1", "0,x", [0, 1, 2]):
        with pytest.raises(LemixError, match=r"ranks: .*expected 2 different whole numbers"):
            read_kineto(paths, ranks=wrong)
    own = put(tmp_path / "own.json", step(0) | {"distributedInfo": {"rank": "4"}})
    assert set(read_kineto(own).spans["node"].tolist()) == {4}
    assert "of rank 4 by itself, taken as rank 2" in said_of(own, ranks="2")


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        (b"C:\\Users\\me", 2, "backslash"),
        (b'say "hello"', 2, "quote"),
        (b"two\nlines", 2, "line break"),
        (b"op\xe9", 2, "encoding"),
    ],
)
def test_names_that_are_no_json_are_placed(
    tmp_path: Path, name: bytes, line: int, said: str
) -> None:
    content = json.dumps(step()).encode().replace(b"## forward ##", name, 1)
    content = content.replace(b'{"ph"', b'\n{"ph"', 1) + b"\n" * 9
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(LemixError, match=f"t.json:{line}: not JSON.*{said}"):
        read_kineto(tmp_path / "t.json")
    (tmp_path / "t.json").write_bytes(json.dumps(step()).encode("utf-16"))
    with pytest.raises(LemixError, match="UTF-16"):
        read_kineto(tmp_path / "t.json")


def test_too_many_events_name_the_option(tmp_path: Path) -> None:
    put(tmp_path / "t.json", step())
    with pytest.raises(LemixError, match="--set max_objects=3"):
        read_kineto(tmp_path / "t.json", max_objects=5)
    with pytest.raises(LemixError, match="Raise max_bytes"):
        read_kineto(tmp_path / "t.json", max_bytes=5)


odd_values = st.sampled_from(
    [0, -1, 1e300, None, "12.5", "x", [], {}, True, 2**62, -(2**62), "1e99", "½", EPOCH_US]
)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from(["ph", "ts", "dur", "tid", "pid", "cat", "args", "name"]),
            odd_values | st.sampled_from(["B", "E", "b", "mtia_ccp_events", "Kernel"]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
@settings(max_examples=examples(200), deadline=None)
def test_odd_fields(changes: list[tuple[int, str, Any]], array: bool) -> None:
    plain = step()
    events = plain["traceEvents"]
    for row, field, value in changes:
        events[row % len(events)][field] = value
    content = json.dumps(events if array else plain).encode()
    refused_by_name_or_read(_added_up, content, ".json")


def _added_up(path: Path) -> None:
    found = read_kineto(path)
    rows, devices = steps_of(found.spans), devices_of(found.spans)
    for row in rows:
        assert 0 <= row["communication_alone_s"] <= row["communication_s"]
    for device in devices:
        here = [r["idle_s"] for r in rows if (r["rank"], r["device"]) == _key(device)]
        assert sum(here) <= device["idle_s"] * (1 + 1e-12) + 1e-15
    assert np.isfinite(found.spans["end_s"]).all()


def _key(row: dict[str, float]) -> tuple[float, float]:
    return row["rank"], row["device"]
