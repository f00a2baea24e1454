"""Instance files come back as they were; damaged ones are refused with file and field."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import generating
from strategies import instances as some

from instances import files, json_columns, read, write
from lemix_opt import Cluster, Costs, Instance, LemixError, Workload
from lemix_opt.errors import FileFormatError


@given(some(max_tasks=4, beyond=True, shared=None) | generating(max_tasks=4))
@settings(max_examples=60, deadline=None)
def test_an_instance_comes_back_equal(instance: Instance) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.json", "a.json.gz", "a.zip", "a"):
            write(instance, Path(folder) / name)
            back = read(Path(folder) / name)
            for field in (
                "cluster",
                "workload",
                "costs",
                "gpu_order",
                "fifo",
                "tick_s",
                *files.OPTIONS,
            ):
                assert getattr(back, field) == getattr(instance, field)
            np.testing.assert_equal(back.slo_unit_s, instance.slo_unit_s)
        assert len(list(Path(folder).iterdir())) == 4
        assert (Path(folder) / "a").read_bytes() == (Path(folder) / "a.json").read_bytes()


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    from test_validation import valid

    write(valid()[0], tmp_path / "good.json")
    found: dict[str, Any] = json.loads((tmp_path / "good.json").read_text())
    return found


def test_damaged_content_names_the_file(tmp_path: Path) -> None:
    bad = {
        "empty.json": b"",
        "list.json": b"[]",
        "latin.json": '{"format": "\xe9"}'.encode("latin-1"),
        "cut.json": b'{"format": "lemix',
        "other.json": b'{"format": "x", "version": 1}',
        "deep.json": b"[" * 100_000,
        "cut.json.gz": gzip.compress(b"{}" * 1000)[:-10],
        "no.json.gz": b"not gzip",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=name):
            read(tmp_path / name)
    with pytest.raises(FileFormatError, match="no such file"):
        read(tmp_path / "absent.json")


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * 10**6))
    with pytest.raises(FileFormatError, match="more than 1000 bytes"):
        read(tmp_path / "bomb.json.gz", max_bytes=1000)


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("workload", "kindd", [0], "unknown field 'kindd'.*Did you mean 'kind'"),
        ("workload", "release_s", [0, None, 0], "release_s"),
        ("workload", "release_s", ["a", "b", "c"], "release_s"),
        ("costs", "forward_s", [[[1, 1], [1, 0], [1, 1]]], r"forward_s\[0, 1, 1\]"),
        ("cluster", "nodes", 2.5, "nodes"),
        ("cluster", "stages", 3, "memory_bytes"),
        (None, "gpu_order", "lifo", "gpu_order"),
        (None, "costs", [], "costs"),
    ],
)
def test_a_wrong_field_is_named(
    tmp_path: Path, plain: dict[str, Any], part: str | None, field: str, value: Any, said: str
) -> None:
    (plain if part is None else plain[part])[field] = value
    (tmp_path / "bad.json").write_text(json.dumps(plain))
    with pytest.raises(LemixError, match=said) as caught:
        read(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value)


def test_a_file_from_before_an_optional_part_is_read(tmp_path: Path, plain: dict[str, Any]) -> None:
    for name in files.OPTIONS:
        del plain[name]
    for name in files.OPTIONAL_COSTS:
        del plain["costs"][name]
    (tmp_path / "old.json").write_text(json.dumps(plain))
    back = read(tmp_path / "old.json")
    assert all(getattr(back, name) is None for name in files.OPTIONS)
    assert not back.costs.all_reduce_s.any()


def test_a_missing_field_is_named(tmp_path: Path, plain: dict[str, Any]) -> None:
    del plain["workload"]["batch"]
    (tmp_path / "bad.json").write_text(json.dumps(plain))
    with pytest.raises(FileFormatError, match="missing field 'batch'"):
        read(tmp_path / "bad.json")


@given(some(max_tasks=4, beyond=True, shared=None) | generating(max_tasks=4))
@settings(max_examples=20, deadline=None)
def test_files_follow_the_published_schema(instance: Instance) -> None:
    validator = jsonschema.Draft202012Validator(files.schema())
    with tempfile.TemporaryDirectory() as folder:
        write(instance, Path(folder) / "i.json")
        plain = json.loads((Path(folder) / "i.json").read_text())
    validator.validate(plain)
    for field in plain.keys() - files.OPTIONS:
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({k: v for k, v in plain.items() if k != field})


@pytest.mark.parametrize("piece", [2**16, 4])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_releases_of_an_epoch_are_counted_from_the_first_one(
    tmp_path: Path,
    suffix: str,
    piece: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_columns, "_PIECE", piece)
    work = Workload([0, 0], [0.0, 0.5], 1, 8)
    costs = Costs(np.full((1, 2, 1), 0.05), 0.0, 0.0, 0.0)
    path = tmp_path / f"epoch.json{suffix}"
    write(Instance(Cluster(1, 1, 1.0), work, costs), path)
    content = gzip.decompress(path.read_bytes()) if suffix else path.read_bytes()
    late = content.replace(b"[0.0,0.5]", b"[1725000000.1,1725000000.13]")
    path.write_bytes(gzip.compress(late) if suffix else late)
    back = read(path)
    assert back.workload.release_s.tolist() == [0.0, 0.03]
    assert back.workload.origin_ns == 1_725_000_000_100_000_000
    assert "count from the first one, 1725000000.1 s" in caplog.text
    write(back, path)
    assert read(path) == back
