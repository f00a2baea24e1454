"""Plain CSV timelines with a map of columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import mutated, refused_by_name_or_read
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

from instances.recordings.timeline import read_timeline
from lemix_opt import LemixError

CSV = "what,job,begin,finish,note\nforward,0,100,250,x\nbackward,1,300,310,\nforward,,320,330,y\n"
MAP = {"phase": "what", "task": "job", "start_s": "begin", "end_s": "finish"}
DATED = "a,b\n2024-05-01T12:00:00+02:00,2024-05-01T10:00:01Z\n2024-05-01T12:00:03+02:00,{}\n"


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def run(text: str, columns: Any, **options: Any) -> Any:
        (tmp_path / "t.csv").write_text(text)
        return read_timeline(tmp_path / "t.csv", columns, **options)

    return run


def test_mapped_columns_in_their_unit(read: Any) -> None:
    found = read(CSV, MAP, time_unit="ms", truth="profile", source="by hand")
    assert found.spans["start_s"] == pytest.approx([0, 0.2, 0.22])
    assert found.spans["end_s"] == pytest.approx([0.15, 0.21, 0.23])
    assert found.spans["task"].tolist() == [0, 1, -1]
    assert found.spans["phase"].tolist() == ["forward", "backward", "forward"]
    assert np.isnan(found.spans["bytes"]).all()
    assert (found.provenance.truth, found.provenance.source) == ("profile", "by hand")
    same = read(
        CSV.replace("250", "150").replace("310", "10").replace("330", "10"),
        {**{k: v for k, v in MAP.items() if k != "end_s"}, "duration_s": "finish"},
        time_unit="ms",
    )
    assert same.spans["end_s"] == pytest.approx(found.spans["end_s"])


def test_dates_with_offsets_are_one_clock(read: Any) -> None:
    columns = {"start_s": "a", "end_s": "b"}
    found = read(DATED.format("2024-05-01T10:00:04.5Z"), columns, time_unit="date")
    assert found.spans["start_s"].tolist() == [0, 3]
    assert found.spans["end_s"].tolist() == [1, 4.5]
    with pytest.raises(LemixError, match="an offset from UTC at every stamp or at none"):
        read(DATED.format("2024-05-01T12:00:04"), columns, time_unit="date")


def test_a_zone_is_for_dates(read: Any) -> None:
    columns = {"start_s": "s", "end_s": "e"}
    with pytest.raises(LemixError, match=r"zone: 'UTC'; expected time_unit='date'"):
        read("s,e\n1,2\n", columns, zone="UTC")
    with pytest.raises(LemixError, match=r"t.csv:2: s: value '1_0'"):
        read("s,e\n1_0,20\n", columns)


def test_jumps_of_the_clock_are_reported(read: Any) -> None:
    back = CSV + "forward,3,10,20,\nforward,4,30,25,\n"
    found = read(back, MAP)
    assert found.provenance.warnings == (
        "line 5: the clock of begin goes back by 310 s",
        "line 6: ends before it begins; left out",
    )
    assert len(found.spans["task"]) == 4


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"start_s": "begin"}, {}, "no column for 'end_s'"),
        ({"start": "begin"}, {}, "Did you mean 'start_s'"),
        (MAP | {"node": "machine"}, {}, r"t\.csv:1: 0 columns 'machine'"),
        (MAP | {"duration_s": "note"}, {}, "'end_s' or 'duration_s'"),
        (MAP | {"bytes": "note"}, {}, r"t\.csv:2: note: value 'x'; expected a number"),
        (MAP | {"task": "what"}, {}, r"t\.csv:2: what: value 'forward'; expected a whole number"),
        (MAP, {"time_unit": "min"}, "one of s, ms, us, ns, date"),
        (MAP, {"time_unit": "date"}, r"t\.csv:2: value '100'; expected a date"),
        (MAP, {"kind": "span"}, "one of spans, requests, samples"),
        (MAP, {"truth": "real"}, "one of recorded, profile, synthetic"),
        ({"time_s": "begin", "value": "note"}, {"kind": "samples"}, r":2: note: value 'x'"),
    ],
)
def test_what_does_not_fit_is_named(
    read: Any, columns: dict[str, str], options: dict[str, str], said: str
) -> None:
    with pytest.raises(LemixError, match=said):
        read(CSV, columns, **options)


SPANS = {"start_s": "begin", "end_s": "finish", "name": "op"}
EPOCH = 1_725_000_000


@pytest.mark.parametrize(
    ("unit", "stamp"),
    [
        ("ns", lambda at: f"{EPOCH * 10**9 + at}"),
        ("us", lambda at: f"{EPOCH * 10**6 + at // 1000}.{at % 1000:03d}"),
        ("ms", lambda at: f"{EPOCH * 10**3}.{at:06d}"),
        ("s", lambda at: f"{EPOCH}.{at:09d}"),
        ("s", lambda at: f"{EPOCH}{at:09d}e-9"),
    ],
)
def test_spans_of_100_ns_at_any_hour_keep_their_length(read: Any, unit: str, stamp: Any) -> None:
    rows = "".join(f"{stamp(at)},{stamp(at + 100)},k\n" for at in range(0, 5000, 1000))
    found = read("begin,finish,op\n" + rows, SPANS, time_unit=unit)
    assert found.spans["start_s"].tolist() == [0, 1e-6, 2e-6, 3e-6, 4e-6]
    assert found.spans["end_s"].tolist() == [1e-7, 1.1e-6, 2.1e-6, 3.1e-6, 4.1e-6]
    assert stamp(0) in found.provenance.clock or "e-9" in stamp(0)


def test_lengths_are_added_before_anything_is_a_float(read: Any) -> None:
    rows = "".join(f"{EPOCH * 10**9 + at},0.25,k\n" for at in (0, 1, 7))
    columns = {"start_s": "begin", "duration_s": "took"}
    found = read("begin,took,op\n" + rows, columns, time_unit="ns")
    assert found.spans["start_s"].tolist() == [0, 1e-9, 7e-9]
    assert found.spans["end_s"].tolist() == [2.5e-10, 1.25e-9, 7.25e-9]


PLAIN = "begin,finish,op\n0.5,0.7,a\n0.9,1.1,b\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("head", ["", "sep={}\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_form_of_excel_says_the_same(
    tmp_path: Path, encoding: str, head: str, separator: str, end: str
) -> None:
    text = head.format(separator) + PLAIN.replace(",", separator)
    (tmp_path / "t.csv").write_bytes(text.replace("\n", end).encode(encoding))
    found = read_timeline(tmp_path / "t.csv", SPANS).spans
    assert found["end_s"].tolist() == pytest.approx([0.2, 0.6])
    assert found["name"].tolist() == ["a", "b"]
    broken = text.replace("1.1", "x").replace("\n", end)
    (tmp_path / "t.csv").write_bytes(broken.encode(encoding))
    with pytest.raises(LemixError, match=f"t.csv:{4 if head else 3}: finish: value 'x'"):
        read_timeline(tmp_path / "t.csv", SPANS)


def test_decimal_commas_are_named_and_read_where_said(read: Any) -> None:
    text = PLAIN.replace(",", ";").replace(".", ",")
    with pytest.raises(LemixError, match=r":2: begin: value '0,5'.*--set decimal=,"):
        read(text, SPANS)
    assert read(text, SPANS, decimal=",").spans["start_s"].tolist() == [0, 0.4]
    with pytest.raises(LemixError, match=r":2: begin: value '0\.5'; .*decimal comma"):
        read(PLAIN, SPANS, decimal=",")
    with pytest.raises(LemixError, match=r":2: 5 cells; .*decimal comma"):
        read(PLAIN.replace(".", ","), SPANS)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('"1,000.5"', "Thousands are set apart"),
        ("1'000.5", "Thousands are set apart"),
        ("٣", "Write digits 0 to 9"),
        ("2024-05-01 12:00:00", "time_unit='date'"),
        ("1e99999999", "expected a number"),
        ("x" * 10**5, "x…'; expected a number"),
    ],
)
def test_cells_that_are_no_numbers_are_named(read: Any, cell: str, said: str) -> None:
    with pytest.raises(LemixError, match=said) as caught:
        read(f"begin,finish,op\n{cell},2,a\n", SPANS)
    assert len(str(caught.value)) < 400


def test_digits_of_other_scripts_are_no_dates(read: Any) -> None:
    with pytest.raises(LemixError, match=r":2: value .*Write digits 0 to 9"):
        read(
            "begin,finish,op\n٢٠٢٤-05-01 12:00:00,2024-05-01 12:00:01,a\n", SPANS, time_unit="date"
        )


def test_a_header_of_any_length_is_refused_with_the_limit(read: Any) -> None:
    with pytest.raises(LemixError, match=r"columns; expected at most 16384"):
        read("a," * 250_000 + "\n1\n", SPANS)


@given(st.data(), st.sampled_from(["s", "date"]), st.sampled_from(["spans", "requests", "samples"]))
@settings(max_examples=examples(200), deadline=None)
def test_mutated_timelines(data: st.DataObject, unit: str, kind: str) -> None:
    text = DATED.format("2024-05-01T10:00:04.5Z") if unit == "date" else CSV
    first, second = ("a", "b") if unit == "date" else ("begin", "finish")
    columns = {
        "spans": {"start_s": first, "end_s": second},
        "requests": {"queued_s": first, "last_token_s": second},
        "samples": {"time_s": first, "value": second},
    }[kind]
    refused_by_name_or_read(
        lambda path: read_timeline(path, columns, kind, unit), mutated(data, text.encode()), ".csv"
    )
