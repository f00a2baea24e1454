"""`lemix import`, `lemix trace` and `lemix record` as a user meets them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import lemix
from test_engine import build, run
from test_recordings_nvidia_smi import AUTUMN, _log
from test_recordings_vllm import LOG, SERIES
from typer.testing import CliRunner

from experiments.cli import app
from experiments.cli_options import as_json_text
from experiments.demo import packaged
from instances.trace_files import write_trace
from lemix_opt import LemixError, Trace


def test_import_writes_what_trace_prints(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(LOG)
    (tmp_path / "t.csv").write_text(SERIES)
    made = lemix(
        *("import", "vllm", "r.csv", "--out", "t.zip", "--json"),
        *("--set", "timeseries=t.csv", "--set", "timeseries_zero_s=0.5"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    said = json.loads(made.stdout)
    assert said["requests"] == "2 over 2.5 s, 0 without a last token"
    assert said["samples"].startswith("10 over 1 s: ")
    shown = lemix("trace", "t.zip", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout) == said
    refused = lemix("replay", "t.zip", "--policy", "jsq", cwd=tmp_path)
    assert (refused.returncode, "timelines only" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("import vlm r.csv --out t.zip", "Did you mean 'vllm'"),
        ("import vllm absent.csv --out t.zip", "absent.csv: no such file"),
        ("import vllm r.csv r.csv --out t.zip", "2 files"),
        ("import azure r.csv --out t.zip", "r.csv"),
        ("import nvidia-smi g.csv --out t.zip --set zne=UTC", "Did you mean 'zone'"),
        ("import nvidia-smi g.csv --out t.zip --set zone", "expected name=value"),
        ("import nvidia-smi g.csv --out t.zip --set max_bytes=x", "expected a number"),
        ("import nvidia-smi g.csv --out t.zip --set max_bytes=-1", "max_bytes: value -1"),
        ("import timeline g.csv --out t.zip", "no 'columns'; expected a value"),
        ("demo --nodes 1000000000", "nodes: value 1000000000; expected at most 4096"),
        ("import nvidia-smi g.csv --out no/t.zip", "no: no such folder"),
        ("import nvidia-smi g.csv --out g.csv", "--out: g.csv; expected another file"),
        ("import nvidia-smi g.csv --out t.zip --set zone=UTC --set zone=UTC", "given twice"),
        ("import nvidia-smi g.csv --out t.zip --set path=1", "--set path: given by FILES"),
        ("trace g.csv", "g.csv: not a zip file"),
        ("trace absent.zip", "absent.zip: no such file"),
        ("record --tasks 0 --out t.zip", "tasks"),
        ("demo --trace g.csv", "g.csv: not a zip file"),
    ],
)
def test_bad_use_is_one_line_and_code_2(tmp_path: Path, arguments: str, said: str) -> None:
    (tmp_path / "r.csv").write_text(LOG)
    (tmp_path / "g.csv").write_text(_log(*AUTUMN))
    run = lemix(*arguments.split(), cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_a_packaged_recording_is_replayed_by_the_command(tmp_path: Path) -> None:
    run = lemix("replay", str(packaged()), "--json", cwd=tmp_path)
    said = json.loads(run.stdout)
    assert (said["end_shift_largest_s"], said["inference_done"]) == (0, 42)


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch (the extra 'record') is not there"
)
def test_record_writes_a_trace(tmp_path: Path) -> None:
    small = "--tasks 4 --rate 100 --hidden 16 --heads 2 --layers 2 --longest 8 --device cpu"
    made = lemix("record", "--out", "t.zip", *small.split(), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "4 tasks done" in made.stdout


def test_explain_says_what_an_error_means(tmp_path: Path) -> None:
    pair = (str(packaged(0)), "--fitted-on", str(packaged(1)))
    shown = lemix("explain", *pair, "--draws", "20", "--json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    said = json.loads(shown.stdout)
    assert [step["name"] for step in said["steps"]][-2:] == ["time model", "speed"]
    assert {metric["draws"] for metric in said["expected"]} == {20}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("explain empty.zip", "trace: no tasks"),
        ("explain some.zip --model boosted", "--model: 'boosted'; expected --fitted-on too"),
        ("explain some.zip --seed -1", "Invalid value for '--seed'"),
        ("regret empty.zip", "empty.zip: no tasks"),
        ("regret some.zip --out some.zip", "--out: some.zip; expected another file"),
        ("regret some.zip --out .", "is a folder"),
        ("regret some.zip --budget nan", "budget_s: value nan"),
        ("regret some.zip --deterministic-limit 0", "deterministic_limit: value 0.0"),
        ("risk --out some.zip", "some.zip: is a file; expected a folder"),
        ("risk --out found --risks 0.1,0.1", "risks: 0.1 twice; expected each once"),
    ],
)
def test_what_cannot_be_judged_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    some = [1, 0, 0]
    for name, kinds in {"empty.zip": [], "some.zip": some}.items():
        instance = build(kinds, [0.0] * len(kinds))
        schedule = run(instance, [0] * len(kinds))
        write_trace(Trace(instance, instance.costs, "synthetic", "by hand", schedule), name)
    found = CliRunner().invoke(app, arguments.split())
    assert said in f"{found.exception} {found.stderr}"
    assert isinstance(found.exception, LemixError | SystemExit)


def test_many_phases_and_counters_are_counted_not_listed(tmp_path: Path) -> None:
    rows = "".join(f"{k},{k + 1},p{k:04d},m{k:04d}\n" for k in range(1000))
    (tmp_path / "t.csv").write_text("a,b,p,m\n" + rows)
    spans = 'columns={"start_s":"a","end_s":"b","phase":"p"}'
    found = lemix("import", "timeline", "t.csv", "--out", "t.zip", "--set", spans, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "(phases not shown)" in found.stdout
    assert len(found.stdout.splitlines()) < 300
    samples = ("--set", 'columns={"time_s":"a","value":"b","metric":"m"}', "--set", "kind=samples")
    found = lemix("import", "timeline", "t.csv", "--out", "t.zip", *samples, cwd=tmp_path)
    assert "(metrics not shown)" in found.stdout


def test_json_has_no_numbers_that_json_lacks() -> None:
    values = {"a": (np.float64("nan"), [float("inf"), 1.5]), "b": np.int64(3), "c": np.ones(2)}
    assert json.loads(as_json_text(values)) == {"a": [None, [None, 1.5]], "b": 3, "c": [1, 1]}
