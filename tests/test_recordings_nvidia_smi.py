"""nvidia-smi logs as scripts write them: with and without header and units, in any order."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from fuzzing import mutated, peak_bytes, refused_by_name_or_read
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

from instances.recordings.nvidia_smi import read_nvidia_smi
from lemix_opt import LemixError

FIELDS = "timestamp,index,utilization.gpu,memory.used"
UNITS = """timestamp, index, utilization.gpu [%], memory.used [MiB]
2024/05/01 12:00:00.100, 0, 45 %, 1024 MiB
2024/05/01 12:00:00.102, 1, [N/A], 3 MiB
2024/05/01 12:00:01.100, 0, 46 %, 1025 MiB
"""
BARE = """2024/05/01 12:00:00.100, 0, 45, 1024
2024/05/01 12:00:00.102, 1, [Not Supported], 3
2024/05/01 12:00:01.100, 0, 46, 1025
"""
TURNED = """memory.used [MiB], timestamp, utilization.gpu [%], index, pstate
1024, 2024/05/01 12:00:00.100, 45, 0, P0
3, 2024/05/01 12:00:00.102, N/A, 1, P8
1025, 2024/05/01 12:00:01.100, 46, 0, P0
"""


@pytest.mark.parametrize(("log", "fields"), [(UNITS, ""), (BARE, FIELDS), (TURNED, "")])
def test_every_way_of_writing_says_the_same(tmp_path: Path, log: str, fields: str) -> None:
    (tmp_path / "g.csv").write_text(log)
    found = read_nvidia_smi(tmp_path / "g.csv", fields=fields)
    rows = zip(*(found.samples[c].tolist() for c in found.samples if c != "node"), strict=True)
    assert sorted(rows) == [
        (0.0, 0, "gpu_utilization_pct", 45),
        (0.0, 0, "memory_used_bytes", 1024 * 2**20),
        (0.002, 1, "memory_used_bytes", 3 * 2**20),
        (1.0, 0, "gpu_utilization_pct", 46),
        (1.0, 0, "memory_used_bytes", 1025 * 2**20),
    ]
    said = "; ".join(found.provenance.warnings)
    assert "1 cells say that the value is not available" in said
    assert ("fields left out: pstate" in said) == (log is TURNED)


NO_UNITS = UNITS.replace(" MiB\n", "\n").replace(" %,", ",")


@pytest.mark.parametrize("log", [UNITS, NO_UNITS])
def test_a_last_line_that_may_be_cut_is_left_out_and_said(tmp_path: Path, log: str) -> None:
    whole = read_whole(tmp_path, log).samples
    row = log.splitlines()[-1]
    for kept in range(1, len(row)):
        found = read_whole(tmp_path, log[: -len(row) - 1] + row[:kept])
        assert found.samples.rows == whole.rows - 2
        assert (
            found.provenance.warnings[0] == f"line 4: {row[:kept].strip()!r} is cut off; left out"
        )


def read_whole(tmp_path: Path, log: str) -> Any:
    (tmp_path / "g.csv").write_text(log)
    return read_nvidia_smi(tmp_path / "g.csv")


def test_a_last_line_whose_unit_shows_its_end_stays(tmp_path: Path) -> None:
    assert read_whole(tmp_path, UNITS[:-1]).samples.rows == 5
    missing = UNITS + "2024/05/01 12:00:02, 0, 1 %, [N/A]"
    assert read_whole(tmp_path, missing).samples.rows == 6


def test_a_logger_that_was_killed_and_begun_again(tmp_path: Path) -> None:
    found = read_whole(tmp_path, UNITS + "2024/05/01 12:00:02.000, 0, 57 %, 10" + UNITS)
    assert found.samples.rows == 10
    said = "line 5: '2024/05/01 12:00:02.000, 0, 57 %, 10' is cut off; left out"
    assert said in found.provenance.warnings


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0, 57 %, 10", r":5: memory.used: value '10', without a unit; .* 'MiB' as in line 2"),
        ("0, 57, 10 MiB", r":5: utilization.gpu: value '57', without a unit; .* as in line 2"),
        ("٠, 57 %, 10 MiB", r":5: index: value"),
        ("0, ٥٧ %, 10 MiB", r":5: utilization.gpu: value .*Write digits 0 to 9"),
        ("0, 5,7 %, 10 MiB", r":5: 5 cells; expected 4"),
    ],
)
def test_a_cell_in_the_middle_must_be_as_the_others(tmp_path: Path, row: str, said: str) -> None:
    after = "2024/05/01 12:00:03, 0, 1 %, 1 MiB\n"
    with pytest.raises(LemixError, match=said):
        read_whole(tmp_path, f"{UNITS}2024/05/01 12:00:02, {row}\n{after}")


def test_one_cell_with_a_unit_among_bare_ones_is_refused(tmp_path: Path) -> None:
    text = NO_UNITS + "2024/05/01 12:00:02, 0, 1, 7 MiB\n"
    with pytest.raises(LemixError, match=r":5: memory.used: value '7 MiB', with 'MiB'"):
        read_whole(tmp_path, text)


def test_zero_bytes_of_a_power_failure_are_left_out_and_said(tmp_path: Path) -> None:
    for log in (UNITS + "\0" * 400, UNITS + "\0" * 400 + "\n", UNITS + "\0\0" + UNITS):
        found = read_whole(tmp_path, log)
        assert found.samples.rows in (5, 10)
        assert any("zero bytes" in said for said in found.provenance.warnings)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_separators_and_line_ends_say_the_same(
    tmp_path: Path, encoding: str, separator: str, end: str
) -> None:
    text = UNITS.replace(", ", separator).replace("\n", end)
    (tmp_path / "g.csv").write_bytes(text.encode(encoding))
    found = read_nvidia_smi(tmp_path / "g.csv").samples
    assert found["value"].tolist() == read_whole(tmp_path, UNITS).samples["value"].tolist()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("timestamp, gpu_uuid, pid, used_gpu_memory [MiB]\nx, y, 1, 2 MiB\n", "list of processes"),
        ("#Date, Time, gpu, pwr\n20240501, 12:00:00, 0, 52\n", "nvidia-smi dmon or pmon"),
        ("# gpu   pwr  gtemp\n# Idx     W      C\n    0    52     44\n", "dmon or pmon"),
        ("timestamp, memory [MHz], graphics [MHz]\nx, 1 MHz, 2 MHz\n", "list of clocks"),
        ("GPU 0: NVIDIA A100 (UUID: GPU-1)\n", "nvidia-smi -L"),
        ("==============NVSMI LOG==============\n", "nvidia-smi -q"),
        ('{"resourceSpans": []}\n', "import otlp"),
    ],
)
def test_other_queries_are_named(tmp_path: Path, log: str, said: str) -> None:
    with pytest.raises(LemixError, match=said):
        read_whole(tmp_path, log)


def test_what_a_shell_said_above_the_header_is_left_out(tmp_path: Path) -> None:
    found = read_whole(tmp_path, "nohup: ignoring input\n" + UNITS)
    assert found.samples.rows == 5
    assert "1 lines above the header are no part of the log; left out" in found.provenance.warnings
    with pytest.raises(LemixError, match=r":1: no header"):
        read_whole(tmp_path, BARE + UNITS)


def test_a_header_of_any_length_is_refused_with_the_limit(tmp_path: Path) -> None:
    fields = ", ".join(f"f{i} [MiB]" for i in range(40_000))
    for text in (f"timestamp, {fields}\n1\n", f"timestamp, {'a, ' * 200_000}\n1\n"):
        with pytest.raises(LemixError, match="fields; expected at most 512 fields"):
            read_whole(tmp_path, text)
        with pytest.raises(LemixError, match="fields; expected at most 512 fields"):
            read_nvidia_smi(tmp_path / "g.csv", fields=text.splitlines()[0])


def _log(*stamps: str) -> str:
    return "timestamp, index, utilization.gpu [%]\n" + "".join(f"{s}, 0, 1 %\n" for s in stamps)


AUTUMN = [f"2024/10/27 02:59:{s:02d}.000" for s in (57, 58, 59)]
AUTUMN += [f"2024/10/27 02:00:{s:02d}.000" for s in (0, 1)]


def test_the_hour_that_comes_twice_is_told_apart_by_a_zone(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text(_log(*AUTUMN))
    found = read_nvidia_smi(tmp_path / "g.csv", zone="Europe/Berlin")
    assert found.samples["time_s"].tolist() == [0, 1, 2, 3, 4]
    assert found.provenance.warnings == ()
    plain = read_nvidia_smi(tmp_path / "g.csv")
    assert plain.samples["time_s"].tolist() == [0, 1, 2, -3597, -3596]
    assert "line 5: the clock of device 0 goes back by 3599 s, as daylight saving does" in (
        plain.provenance.warnings
    )


def test_spring_and_gaps(tmp_path: Path) -> None:
    stamps = [f"2024/03/31 01:59:{s:02d}" for s in range(50, 60)] + ["2024/03/31 03:00:00"]
    (tmp_path / "g.csv").write_text(_log(*stamps))
    found = read_nvidia_smi(tmp_path / "g.csv", zone="Europe/Berlin")
    assert found.samples["time_s"][-1] == 10
    assert found.provenance.warnings == ()
    said = read_nvidia_smi(tmp_path / "g.csv").provenance.warnings[0]
    assert said == (
        "line 12: the clock of device 0 leaves a gap of 3601 s, usual are 1 s, "
        "as daylight saving does"
    )
    (tmp_path / "g.csv").write_text(_log("2024/03/31 02:30:00"))
    with pytest.raises(LemixError, match=r"g\.csv:2: .*expected a time that exists in Europe"):
        read_nvidia_smi(tmp_path / "g.csv", zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("log", "fields", "said"),
    [
        ("", "", "no rows"),
        (BARE, "", r":1: no header: .*Name the queried fields"),
        (BARE, "index,memory.used", "no field 'timestamp'"),
        (UNITS, "timestamp,index,memory.used", ":1: fields timestamp, index, util"),
        (UNITS + "2024/05/01 12:00:02, 0, 46 W, 1 MiB\n", "", ":5: utilization.gpu: value '46 W'"),
        (UNITS + "2024/05/01 12:00:02, 0, 46 %\n", "", ":5: 3 cells; expected 4"),
        (UNITS + "2024/05/01 25:00:02, 0, 46 %, 1\n", "", ":5: value '2024/05/01 25"),
        (UNITS + "2024/05/01 12:00:02, A, 46 %, 1\n", "", ":5: index: value 'A'"),
        ("timestamp, index\n", "", "at least one counter"),
        (UNITS.replace("[MiB]", "[GiB]"), "", r":1: memory\.used: unit 'GiB'; expected 'MiB'"),
        (BARE, "timestamp,index,utilization.gpu,memory.used [kB]", "memory.used: unit 'kB'"),
        (UNITS + "2024/05/01 12:00:02, 0, 46 %, -1\n", "", "memory.used: value '-1'; .*least 0"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, log: str, fields: str, said: str) -> None:
    (tmp_path / "g.csv").write_text(log)
    with pytest.raises(LemixError, match=said):
        read_nvidia_smi(tmp_path / "g.csv", fields=fields)


def test_many_devices_take_neither_long_nor_many_words(tmp_path: Path) -> None:
    rows = [f"2024/05/01 12:00:{s:02d}, gpu{d}, 1 %\n" for d in range(3000) for s in (9, 8)]
    (tmp_path / "g.csv").write_text("timestamp, uuid, utilization.gpu [%]\n" + "".join(rows))
    found = read_nvidia_smi(tmp_path / "g.csv")
    said = found.provenance.warnings
    assert said[0] == "line 3: the clock of device 0 goes back by 1 s"
    assert "the clocks of 2984 more devices too" in said
    assert len(said) < 25
    assert len(set(found.samples["device"].tolist())) == 3000


def test_an_unknown_zone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text(UNITS)
    for zone in ("Europe/Berlim", "../../etc/passwd", "\x00"):
        with pytest.raises(LemixError, match=r"zone: .* expected an IANA name"):
            read_nvidia_smi(tmp_path / "g.csv", zone=zone)


def test_a_gzip_bomb_takes_no_more_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "g.csv.gz").write_bytes(gzip.compress(bytes(2**27), 9))
    taken = peak_bytes(lambda: read_nvidia_smi(tmp_path / "g.csv.gz", max_bytes=2**20))
    assert taken < 2**23


@given(st.data(), st.sampled_from([UNITS, BARE, TURNED, _log(*AUTUMN)]), st.booleans())
@settings(max_examples=examples(200), deadline=None)
def test_mutated_logs(data: st.DataObject, log: str, zoned: bool) -> None:
    fields = FIELDS if log is BARE else ""
    zone = "Europe/Berlin" if zoned else ""
    content = mutated(data, log.encode())
    refused_by_name_or_read(lambda p: read_nvidia_smi(p, fields, zone), content, ".csv")
