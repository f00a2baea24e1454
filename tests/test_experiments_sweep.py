"""Sweeps: every cell once, failures kept, damage named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from experiments import sweep_config
from experiments.sweep import run_sweep
from experiments.sweep_config import Cell, read_grid
from experiments.sweep_store import read_cell, write_cell
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


PLUGINS = Path(__file__).parent / "plugins"
LETHAL = """
[[instance]]
name = "small"
study = { tasks = 6, nodes = 2, stages = 2, load = 0.9 }
[[solver]]
name = "oomer"
[[solver]]
name = "jsq"
"""


def test_a_killed_worker_is_a_row_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PLUGINS)
    cells = read_grid(grid(tmp_path, LETHAL))
    for jobs in (1, 2):
        state = run_sweep(cells, tmp_path / str(jobs), jobs=jobs)
        assert (state.ran, state.failed) == (2, 1)
        error = state.rows[0]["error"]
        assert "cell 'small', oomer {}, seed 0: its process was killed by SIGKILL" in error
        assert "memory" in error
        assert state.rows[1]["status"] == "feasible"
        again = run_sweep(cells, tmp_path / str(jobs), jobs=jobs)
        assert (again.ran, again.kept, again.rows) == (0, 2, state.rows)
    one, two = ((tmp_path / str(j) / "results.parquet").read_bytes() for j in (1, 2))
    assert one == two


def _row(cell: Cell, **changed: Any) -> str:
    row = {"problem": "small", "solver": cell.solver, "parameters": cell.parameters}
    row |= {"seed": cell.seed, "error": None, "status": "feasible", "objective_s": 1.0} | changed
    return json.dumps({"row": row, "wall_s": 1.0})


@pytest.mark.parametrize(
    "content",
    [
        lambda cell: "",
        lambda cell: "no JSON " + "x" * 10_000 + "\n" * 5,
        lambda cell: "[" * 100_000,
        lambda cell: '{"row":' * 5_000,
        lambda cell: _row(cell)[:-20],
        lambda cell: "[]",
        lambda cell: "null",
        lambda cell: '{"row": [], "wall_s": 1.0}',
        lambda cell: '{"row": {}, "wall_s": 1.0}',
        lambda cell: _row(cell).replace('"wall_s": 1.0', '"wall_s": "long"'),
        lambda cell: _row(cell, objective_s="abc" * 1000),
        lambda cell: _row(cell, objective_s=[1.0]),
        lambda cell: _row(cell, nodes_used={"a": 1}),
        lambda cell: _row(cell, status=3),
        lambda cell: _row(cell, status=None),
        lambda cell: _row(cell, seed="0"),
        lambda cell: _row(cell, seed=cell.seed + 1),
        lambda cell: _row(cell, solver="other"),
        lambda cell: _row(cell, rules_broken=2**70),
        lambda cell: _row(cell, error=["a"]),
        lambda cell: b"\xff\xfe\x00",
    ],
)
def test_damage_of_any_kind_is_named_in_a_line(
    tmp_path: Path, content: Callable[[Cell], str | bytes]
) -> None:
    cell = read_grid(grid(tmp_path))[0]
    path = tmp_path / "out" / "cells" / f"{cell.key}.json"
    path.parent.mkdir(parents=True)
    found = content(cell)
    path.write_bytes(found if isinstance(found, bytes) else found.encode())
    with pytest.raises(FileFormatError, match="Remove the file to run its cell again") as error:
        run_sweep([cell], tmp_path / "out")
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    assert len(said) < len(str(path)) + 300


def test_infinite_values_come_back_as_they_were(tmp_path: Path) -> None:
    cell = read_grid(grid(tmp_path))[0]
    row = {name: getattr(cell, name) for name in ("problem", "solver", "parameters", "seed")}
    row |= {"error": None, "status": "unknown", "objective_s": inf, "lower_bound_s": -inf}
    kept = write_cell(tmp_path, cell, {"row": row | {"gap": nan}, "wall_s": 1.0})
    assert kept == read_cell(tmp_path, cell) == {"row": row | {"gap": None}, "wall_s": 1.0}


HOLD = """
import sys
from pathlib import Path
from experiments.sweep_store import opened
with opened(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_sweep_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    """The lock of a process that was killed is taken over, and its pieces of files removed."""
    cells, out = read_grid(grid(tmp_path))[:1], tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LemixError, match=f"another sweep writes here .process {other.pid} on"):
            run_sweep(cells, out)
        other.kill()
    pieces = [out / "cells" / ".abc.json1x2.tmp", out / ".results.parquet3y4.tmp"]
    for piece in pieces:
        piece.write_bytes(b"half")
    (out / ".mine.tmp").write_bytes(b"")
    assert run_sweep(cells, out).ran == 1
    assert not any(piece.exists() for piece in pieces)
    assert (out / ".mine.tmp").exists()


def test_ctrl_c_keeps_what_is_finished_and_nothing_else(tmp_path: Path) -> None:
    """The first cell never ends by itself; the press comes when the others are kept."""
    slow = GRID.replace("30", "100000").replace("tasks = 6", "tasks = 60")
    slow = slow.replace("[[solver]]", '[[solver]]\nname = "cpsat"\n[[solver]]', 1)
    slow = slow.rsplit("[[solver]]", 1)[0].replace("seeds = [0, 1]", "seeds = [0]")
    cells, out = read_grid(grid(tmp_path, slow)), tmp_path / "out"
    assert [cell.solver for cell in cells] == ["cpsat", "lemix", "lemix"]

    def press(what: str, done: int, total: int) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    run_sweep(cells[1:], out)
    before = len(list((out / "cells").iterdir()))
    for kept in (out / "cells").iterdir():
        kept.unlink()
    state = run_sweep(cells, out, jobs=2, progress=press)
    assert (state.ran, state.left, before) == (2, 1, 2)
    assert [row["solver"] for row in state.rows] == ["lemix", "lemix"]
    assert {path.stem for path in (out / "cells").iterdir()} == {cell.key for cell in cells[1:]}
    assert not (out / "results.parquet").exists()
