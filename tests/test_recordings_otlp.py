"""OTLP/JSON exports: whole files and lines, attributes, clocks, and hostile content."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import mutated, peak_bytes, refused_by_name_or_read
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

from instances.recordings.otlp import read_otlp
from lemix_opt import LemixError

ZERO = 1_714_564_800_000_000_001


def span(name: str, start: int, end: int, trace: str = "t1", **attributes: int | str) -> Any:
    values = {
        key: {"stringValue": v} if isinstance(v, str) else {"intValue": str(v)}
        for key, v in attributes.items()
    }
    return {
        "traceId": trace,
        "spanId": "s",
        "name": name,
        "startTimeUnixNano": str(ZERO + start),
        "endTimeUnixNano": ZERO + end,
        "attributes": [{"key": key, "value": value} for key, value in values.items()],
    }


def export(*spans: Any, service: str = "worker") -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return {
        "resourceSpans": [
            {"resource": resource, "scopeSpans": [{"scope": {"name": "x"}, "spans": list(spans)}]}
        ]
    }


WHOLE = export(
    span("prefill", 0, 1500, stage=1),
    span("decode", 2000, 2001, "t2", stage=0, size=7),
    service="a",
)


def test_nanoseconds_traces_and_services(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text(json.dumps(WHOLE, indent=1))
    found = read_otlp(
        tmp_path / "o.json",
        attributes={"stage": "stage", "bytes": "size"},
        phases={"prefill": "forward"},
    )
    spans = found.spans
    assert spans["start_s"].tolist() == [0, 2e-6]
    assert spans["end_s"].tolist() == [1.5e-6, 2.001e-6]
    assert spans["task"].tolist() == [0, 1]
    assert spans["stage"].tolist() == [1, 0]
    assert spans["phase"].tolist() == ["forward", ""]
    assert str(spans["bytes"].tolist()) == "[nan, 7.0]"
    assert str(ZERO) in found.provenance.clock


def test_lines_of_a_collector_are_requests_of_their_own(tmp_path: Path) -> None:
    lines = [export(span("a", 9, 10), service=s) for s in ("x", "y", "x")]
    text = "\n".join(json.dumps(line) for line in lines) + "\n"
    (tmp_path / "o.json.gz").write_bytes(gzip.compress(text.encode()))
    assert read_otlp(tmp_path / "o.json.gz").spans["node"].tolist() == [0, 1, 0]
    (tmp_path / "o.json").write_text(text + '{"resourceSpans": 3}\n')
    with pytest.raises(LemixError, match=r"o\.json:4: Expected `array`"):
        read_otlp(tmp_path / "o.json")


def test_a_span_that_ends_before_it_begins_is_left_out_and_reported(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text(json.dumps(export(span("a", 5, 9), span("b", 10**9, 7))))
    found = read_otlp(tmp_path / "o.json")
    assert found.spans["name"].tolist() == ["a"]
    assert "span 'b' ends 1 s before it begins; left out" in found.provenance.warnings[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ":1: not JSON"),
        (b'{"resourceSpans": []}', "no spans"),
        (json.dumps(export({"name": "a"})).encode(), "missing required field `startTimeUnixNano`"),
        (json.dumps(export(span("a", -ZERO, 1))).encode().replace(b'"0"', b'"-1"'), "time '-1'"),
        (json.dumps(WHOLE).encode().replace(str(ZERO).encode(), b"9" * 400, 1), "nanoseconds"),
        (b'{"resourceSpans":' * 10**5, "o.json:1: "),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "o.json").write_bytes(content)
    with pytest.raises(LemixError, match=said) as caught:
        read_otlp(tmp_path / "o.json")
    assert "o.json" in str(caught.value)


def test_attributes_must_have_the_type_of_their_column(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text(json.dumps(export(span("a", 1, 2, stage="one"))))
    with pytest.raises(LemixError, match=r"o\.json:1: attribute 'stage': .* a whole number"):
        read_otlp(tmp_path / "o.json", attributes={"stage": "stage"})
    with pytest.raises(LemixError, match="'stages'; expected one of task"):
        read_otlp(tmp_path / "o.json", attributes={"stages": "stage"})


def test_a_gzip_bomb_takes_no_more_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "o.json.gz").write_bytes(gzip.compress(b'{"a": "' + b"x" * 2**27, 9))
    assert peak_bytes(lambda: read_otlp(tmp_path / "o.json.gz", max_bytes=2**20)) < 2**23


@pytest.mark.parametrize("first", [b"", b"{}\n{}\n"])
def test_many_short_lines_are_read_one_at_a_time(tmp_path: Path, first: bytes) -> None:
    (tmp_path / "o.json").write_bytes(first + b"ab\n" * 10**6)
    assert peak_bytes(lambda: read_otlp(tmp_path / "o.json")) < 2**25


@given(st.data(), st.booleans())
@settings(max_examples=examples(200), deadline=None)
def test_mutated_exports(data: st.DataObject, by_line: bool) -> None:
    text = json.dumps(WHOLE)
    text = f"{text}\n{text}\n" if by_line else json.dumps(WHOLE, indent=1)
    content = mutated(data, text.encode(), lines=False)
    wanted = {"stage": "stage", "bytes": "size"}
    refused_by_name_or_read(lambda path: read_otlp(path, wanted), content, ".json")
