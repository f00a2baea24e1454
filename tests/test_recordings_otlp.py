"""OTLP/JSON exports: whole files and lines, attributes, clocks, and hostile content."""

from __future__ import annotations

import base64
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
        (
            json.dumps(export(span("a", 1, 2))).encode().replace(b'"17', b'"' + b"9" * 400),
            "nanosec",
        ),
        (b'{"context": {"trace_id": "0x1"}, "start_time": "2024"}', "console exporter prints"),
        (b'{"resourceMetrics": []}', "no spans.* metrics in JSON"),
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


def _read(tmp_path: Path, *lines: Any, end: str = "\n", **options: Any) -> Any:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end
    (tmp_path / "o.json").write_text(text)
    return read_otlp(tmp_path / "o.json", **options)


@pytest.mark.parametrize("end", ["absent", None, 0, "0", "", "0.0"])
def test_a_span_without_end_was_still_open(tmp_path: Path, end: Any) -> None:
    open_one = span("open", 1, 2)
    if end == "absent":
        del open_one["endTimeUnixNano"]
    else:
        open_one["endTimeUnixNano"] = end
    found = _read(tmp_path, export(span("a", 5, 9), open_one))
    assert found.spans["name"].tolist() == ["a"]
    assert "line 1: span 'open' has no end, it was still open; left out" in (
        found.provenance.warnings
    )


@pytest.mark.parametrize(
    "odd",
    [
        {"startTimeUnixNano": "yesterday"},
        {"startTimeUnixNano": [1]},
        {"startTimeUnixNano": str(2**63)},
        {"startTimeUnixNano": "٣"},
        {"startTimeUnixNano": -5},
        {"startTimeUnixNano": 1.5},
        {"startTimeUnixNano": None},
        {"endTimeUnixNano": {"a": 1}},
        {"endTimeUnixNano": "1"},
        "a text",
        7,
        [],
        None,
    ],
)
def test_one_odd_span_does_not_refuse_a_file(tmp_path: Path, odd: Any) -> None:
    broken = span("b", 1, 2) | odd if isinstance(odd, dict) else odd
    found = _read(tmp_path, export(span("a", 5, 9), broken, span("c", 6, 7)))
    assert found.spans["name"].tolist() == ["a", "c"]
    assert found.spans["start_s"].tolist() == [0, 1e-9]
    assert "left out" in found.provenance.warnings[0]


def test_lines_without_spans_are_passed_over(tmp_path: Path) -> None:
    whole = export(span("a", 5, 9))
    found = _read(tmp_path, whole, {}, {"resourceMetrics": []}, {"resourceLogs": []}, whole)
    assert found.spans["name"].tolist() == ["a", "a"]
    assert "3 lines hold no spans and are passed over" in found.provenance.warnings
    found = _read(tmp_path, whole, whole, '{"resourceSpans": [{"sco', end="")
    assert found.spans.rows == 2
    assert found.provenance.warnings[0].startswith("line 3 is cut off")


def _snake(value: Any) -> Any:
    if isinstance(value, dict):
        return {_SNAKE.get(key, key): _snake(entry) for key, entry in value.items()}
    return [_snake(entry) for entry in value] if isinstance(value, list) else value


_SNAKE = {
    "resourceSpans": "resource_spans",
    "scopeSpans": "scope_spans",
    "traceId": "trace_id",
    "startTimeUnixNano": "start_time_unix_nano",
    "endTimeUnixNano": "end_time_unix_nano",
    "stringValue": "string_value",
    "intValue": "int_value",
}
HEX = "6530d7d67a99987d946f0be78b547acb"


def _forms() -> dict[str, Any]:
    whole = export(span("a", 5, 9, HEX, stage=3), span("b", 6, 7, HEX.upper(), stage=4))
    group = whole["resourceSpans"][0]
    number = span("b", 6, 7, HEX, stage=4)
    number["attributes"] = [{"key": "stage", "value": {"doubleValue": 4.0}}]
    text = span("b", 6, 7, HEX)
    text["attributes"] = [{"key": "stage", "value": {"stringValue": "4"}}]
    text["startTimeUnixNano"] = f"{ZERO + 6}.0"
    return {
        "camel": whole,
        "snake": _snake(whole),
        "a list of exports": [whole, {}],
        "a list of groups": [group],
        "a group": group,
        "old scopes": {
            "resourceSpans": [
                {**group, "scopeSpans": None, "instrumentationLibrarySpans": group["scopeSpans"]}
            ]
        },
        "a double": export(span("a", 5, 9, HEX, stage=3), number),
        "a text": export(span("a", 5, 9, HEX, stage=3), text),
        "jaeger": {
            "data": [
                {
                    "traceID": HEX,
                    "spans": [
                        {
                            "traceID": HEX,
                            "operationName": name,
                            "startTime": (ZERO - 1) // 1000 + at,
                            "duration": 1,
                            "processID": "p1",
                            "tags": [{"key": "stage", "type": "int64", "value": stage}],
                        }
                        for name, at, stage in (("a", 0, 3), ("b", 1, 4))
                    ],
                    "processes": {"p1": {"serviceName": "worker"}},
                }
            ]
        },
    }


@pytest.mark.parametrize("form", _forms())
def test_every_spelling_says_the_same(tmp_path: Path, form: str) -> None:
    found = _read(tmp_path, _forms()[form], attributes={"stage": "stage"})
    assert found.spans["name"].tolist() == ["a", "b"]
    assert found.spans["task"].tolist() == [0, 0]
    assert found.spans["stage"].tolist() == [3, 4]
    if form not in ("old scopes",):
        assert found.spans["node"].tolist() == [0, 0]
    step = 1e-6 if form == "jaeger" else 1e-9
    assert found.spans["start_s"].tolist() == [0, step]


def test_base64_and_hexadecimal_name_one_trace(tmp_path: Path) -> None:
    text = base64.b64encode(bytes.fromhex(HEX)).decode()
    found = _read(tmp_path, export(span("a", 1, 2, HEX), span("b", 1, 2, text)))
    assert found.spans["task"].tolist() == [0, 0]
    none = _read(tmp_path, export(span("a", 1, 2, ""), span("b", 1, 2, "0" * 32)))
    assert none.spans["task"].tolist() == [-1, -1]


def test_an_attribute_of_another_type_at_some_spans_is_unknown_there(tmp_path: Path) -> None:
    spans = [span("a", 1, 2, stage=1), span("b", 1, 2, stage="one"), span("c", 1, 2)]
    found = _read(tmp_path, export(*spans), attributes={"stage": "stage"})
    assert found.spans["stage"].tolist() == [1, -1, -1]
    assert any("no whole number; unknown there" in said for said in found.provenance.warnings)


def _request(at: int, **values: float | int | str) -> Any:
    made = span("llm_request", at, at + 2 * 10**9, f"t{at}")
    names = {"id": "request.id", "prompt": "usage.prompt_tokens", "made": "usage.completion_tokens"}
    names |= {"input": "usage.input_tokens", "queue": "latency.time_in_queue"}
    names |= {"ttft": "latency.time_to_first_token", "e2e": "latency.e2e"}
    made["attributes"] = [
        {
            "key": f"gen_ai.{names[name]}",
            "value": {
                {str: "stringValue", int: "intValue", float: "doubleValue"}[type(value)]: value
            },
        }
        for name, value in values.items()
    ]
    return made


def test_requests_of_vllm_are_rows_with_their_stamps(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        export(
            span("other", 0, 1),
            _request(0, id="r1", prompt=512, made=64, queue=0.01, ttft=0.12, e2e=1.5),
            _request(10**8, id="r2", input=7, made=0, queue=0.05),
            _request(10**8, id="r3", ttft=0.3, e2e=0.2),
            _request(10**8, id="r4", prompt=-1, queue="NaN"),
        ),
    )
    requests = found.requests
    assert requests["request"].tolist() == ["r1", "r2", "r4"]
    assert requests["prompt_tokens"].tolist() == [512, 7, -1]
    assert requests["output_tokens"].tolist() == [64, 0, -1]
    assert requests["queued_s"].tolist() == [0, 0.1, 0.1]
    assert requests["scheduled_s"][:2] == pytest.approx([0.01, 0.15])
    assert requests["first_token_s"][0] == pytest.approx(0.12)
    assert requests["last_token_s"][0] == pytest.approx(1.5)
    assert str(requests["last_token_s"][1:].tolist()) == "[nan, nan]"
    said = "; ".join(found.provenance.warnings)
    assert "request 'r3' has its last token or first token too early; left out" in said
    assert "request 'r4' has no number as gen_ai.usage.prompt_tokens" in said
    assert found.spans.rows == 5


@given(st.data(), st.booleans())
@settings(max_examples=examples(200), deadline=None)
def test_mutated_exports(data: st.DataObject, by_line: bool) -> None:
    text = json.dumps(WHOLE)
    text = f"{text}\n{text}\n" if by_line else json.dumps(WHOLE, indent=1)
    content = mutated(data, text.encode(), lines=False)
    wanted = {"stage": "stage", "bytes": "size"}
    refused_by_name_or_read(lambda path: read_otlp(path, wanted), content, ".json")
