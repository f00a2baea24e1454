"""Outputs are checked ahead of the work: no input is replaced, nothing is worked for in vain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from test_validation import valid
from typer.testing import CliRunner

from experiments import comparison
from experiments.cli import app
from experiments.demo import packaged
from instances import write
from lemix_opt.errors import LemixError
from solvers import solve

FILES = [
    ("solve", "in.json"),
    ("simulate", "in.json"),
    ("replay", "in.json"),
    ("regret", "in.json"),
    ("import", "kineto", "in.json"),
    ("predict", "in.json"),
]
NEW_FILES = [*FILES, ("fit", "--profile", "none"), ("record",)]
FOLDERS = [
    ("compare", "--requests", "none", "--profile", "none"),
    ("demo", "--trace", "in.json"),
    ("bench", "none"),
    ("sweep", "in.json"),
    ("study", "none"),
    ("risk", "--exact", "none"),
    ("curve", "--profile", "none"),
]


def error_of(*arguments: str) -> Any:
    found = CliRunner().invoke(app, list(arguments))
    assert isinstance(found.exception, LemixError), found.output
    return found.exception


@pytest.fixture(autouse=True)
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.chdir(tmp_path)
    write(valid()[0], tmp_path / "in.json")
    os.link("in.json", "hard.json")
    os.symlink("in.json", "soft.json")
    return (tmp_path / "in.json").read_bytes()


@pytest.mark.parametrize("out", ["in.json", "./in.json", "hard.json", "soft.json"])
@pytest.mark.parametrize("command", FILES, ids=lambda c: c[0])
def test_no_command_replaces_its_input(command: tuple[str, ...], out: str, content: bytes) -> None:
    assert "another file than what is read" in str(error_of(*command, "--out", out))
    assert Path("in.json").read_bytes() == content


@pytest.mark.parametrize("command", NEW_FILES, ids=lambda c: c[0])
def test_files_that_cannot_be_written_are_named_first(command: tuple[str, ...]) -> None:
    Path("folder").mkdir()
    assert "no such folder" in str(error_of(*command, "--out", "absent/new.json"))
    assert "is a folder" in str(error_of(*command, "--out", "folder"))


@pytest.mark.parametrize("command", FOLDERS, ids=lambda c: c[0])
def test_folders_that_cannot_be_written_are_named_first(command: tuple[str, ...]) -> None:
    for out in ("hard.json", "hard.json/new"):
        assert "hard.json: is a file; expected a folder" in str(error_of(*command, "--out", out))
    assert not Path("new").exists()


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no file system without files")
@pytest.mark.parametrize("command", [*NEW_FILES, *FOLDERS], ids=lambda c: c[0])
def test_places_without_room_for_files_are_named_first(command: tuple[str, ...]) -> None:
    assert "cannot be written" in str(error_of(*command, "--out", "/proc/new.json"))


def test_a_comparison_does_not_replace_the_trace_it_reads() -> None:
    Path("trace.zip").write_bytes(packaged().read_bytes())
    before = Path("trace.zip").read_bytes()
    assert "It would replace trace.zip" in str(
        error_of("demo", "--trace", "trace.zip", "--out", ".")
    )
    assert Path("trace.zip").read_bytes() == before


def test_an_interrupted_comparison_says_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second window is cut; charts and traces of an earlier comparison are gone."""
    own, done = comparison.run_window, []

    def run(*arguments: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return own(*arguments)

    monkeypatch.setattr(comparison, "run_window", run)
    out = Path("out")
    out.mkdir()
    for name in ("window-gone.png", "run-gone.perfetto.json.gz", "mine.png"):
        (out / name).write_bytes(b"")
    found = CliRunner().invoke(app, ["demo", "--out", str(out), "--jobs", "1"])
    assert found.exit_code == 130, found.output
    assert "INTERRUPTED: 7 of 7 policies on the whole run and 1 of 8 windows" in found.output
    assert "INTERRUPTED" in (out / "report.txt").read_text()
    names = {path.name for path in out.iterdir()}
    assert {"mine.png", "windows.parquet"} <= names
    assert not {"window-gone.png", "run-gone.perfetto.json.gz"} & names


def test_a_cut_window_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import solvers

    def cut(*arguments: Any, **options: Any) -> Any:
        return replace(solve(*arguments, **options), explanation="interrupted")

    monkeypatch.setattr(solvers, "solve", cut)
    found = CliRunner().invoke(app, ["demo", "--out", "out", "--jobs", "1"])
    assert found.exit_code == 130
    assert "and 0 of 8 windows are done" in found.output
    found = CliRunner().invoke(app, ["solve", "in.json"])
    assert found.exit_code == 130
    found = CliRunner().invoke(app, ["bench", "serving-small", "--limit", "1", "--out", "out"])
    assert found.exit_code == 130
    assert not Path("out/results.parquet").exists()
