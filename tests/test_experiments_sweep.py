"""Sweeps: every cell once, failures kept, damage named."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import sweep_config
from experiments.sweep import run_sweep
from experiments.sweep_config import read_grid
from experiments.tables import read_parquet
from lemix_opt.errors import FieldError, FileFormatError, LemixError

GRID = """
seeds = [0, 1]
time_limit_s = 30
[[instance]]
name = "small"
study = { tasks = 6, nodes = 2, stages = 2, load = 0.9 }
[[solver]]
name = "lemix"
parameters = { reading = ["consolidate", "subtraction"] }
[[solver]]
name = "cpsat"
"""


def grid(tmp_path: Path, text: str = GRID) -> Path:
    (tmp_path / "grid.toml").write_text(text)
    return tmp_path / "grid.toml"


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cells = read_grid(grid(tmp_path))
    assert len(cells) == 6
    run_sweep(cells[:4], tmp_path / "out")
    state = run_sweep(cells, tmp_path / "out")
    assert (state.ran, state.kept, state.failed) == (2, 4, 0)
    rows, versions = read_parquet(tmp_path / "out" / "results.parquet")
    assert [row["status"] for row in rows] == ["feasible"] * 4 + ["optimal"] * 2
    assert "numpy" in versions
    assert rows[0]["objective_s"] >= rows[4]["objective_s"] - 1e-9
    assert {row["outside_lemix"] for row in rows} == {""}


def test_a_row_says_what_is_not_part_of_lemix(tmp_path: Path) -> None:
    text = GRID.replace("load = 0.9", "load = 0.9, all_reduce_s = 0.5")
    state = run_sweep(read_grid(grid(tmp_path, text))[:1], tmp_path / "out")
    assert state.rows[0]["outside_lemix"] == "all-reduce"


def test_tables_are_the_same_with_any_number_of_processes(tmp_path: Path) -> None:
    cells = read_grid(grid(tmp_path))
    for jobs in (1, 2):
        run_sweep(cells, tmp_path / str(jobs), jobs=jobs)
    one, two = ((tmp_path / str(j) / "results.parquet").read_bytes() for j in (1, 2))
    assert one == two


def test_failed_cells_are_kept_with_their_error(tmp_path: Path) -> None:
    bad = GRID.replace("load = 0.9", "load = 0.9, tasks = 6, profile = 'none'").replace(
        "tasks = 6, nodes", "nodes"
    )
    cells = read_grid(grid(tmp_path, bad))
    state = run_sweep(cells, tmp_path / "out")
    assert state.failed == 6
    assert state.rows[0]["error"].startswith("UnknownNameError: unknown profile 'none'")
    assert run_sweep(cells, tmp_path / "out").ran == 0
    assert run_sweep(cells, tmp_path / "out", retry_failed=True).ran == 6


def test_a_damaged_cell_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    cells = read_grid(grid(tmp_path))[:2]
    run_sweep(cells, tmp_path / "out")
    before = (tmp_path / "out" / "results.parquet").read_bytes()
    broken = tmp_path / "out" / "cells" / f"{cells[0].key}.json"
    broken.write_bytes(b'{"row": {')
    with pytest.raises(FileFormatError, match="Remove the file to run its cell again"):
        run_sweep(cells, tmp_path / "out")
    assert (tmp_path / "out" / "results.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seeds", "seed"), "unknown field 'seed'.*Did you mean 'seeds'"),
        (("[[solver]]", "[[solvers]]"), "unknown field 'solvers'"),
        (('"cpsat"', '"cpsatt"'), "Did you mean 'cpsat'"),
        (("reading", "readings"), "Did you mean 'reading'"),
        (("stages = 2", "stagess = 2"), "Did you mean 'stages'"),
        (("study = {", "file = 'x.json'\nstudy = {"), "both or neither"),
        (("time_limit_s = 30", "time_limit_s = 'long'"), "time_limit_s"),
        (("seeds = [0, 1]", "seeds = [0, 1"), "grid.toml"),
        (("seeds = [0, 1]", "seeds = [0, 1.5]"), r"grid.toml: seeds\[1\]: value 1.5"),
        (("seeds = [0, 1]", "seeds = ['a']"), r"grid.toml: seeds\[0\]"),
        (("seeds = [0, 1]", "seeds = " + "[" * 5000), "grid.toml"),
        (("time_limit_s = 30", "deterministic_limit = 0"), "deterministic_limit: value 0"),
    ],
)
def test_bad_grids_are_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(LemixError, match=said) as found:
        read_grid(grid(tmp_path, GRID.replace(*change)))
    assert "grid.toml" in str(found.value)


def test_a_grid_of_too_many_cells_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_config, "_MOST_CELLS", 5)
    with pytest.raises(FieldError, match=r"grid\.toml: grid: 6 cells; expected at most 5"):
        read_grid(grid(tmp_path))
    monkeypatch.setattr(sweep_config, "_MOST_CELLS", 1)
    with pytest.raises(FieldError, match=r"grid\.toml: solver 1: 2 cells"):
        read_grid(grid(tmp_path))
