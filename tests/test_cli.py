"""The `lemix` command as a user meets it: output, exit codes, no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_validation import valid

from instances import write
from lemix_opt.rooms import HOME


def lemix(*arguments: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(filter(None, (path, str(HOME))))
    return subprocess.run(
        [sys.executable, "-m", "lemix_opt", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    write(valid()[0], tmp_path / "instance.json")
    return str(tmp_path / "instance.json")


def test_solve_proves_an_optimum_and_a_policy_is_no_better(tmp_path: Path, file: str) -> None:
    exact = lemix("solve", file, "--json", cwd=tmp_path)
    greedy = lemix("solve", file, "--solver", "mix-rr", "--json", cwd=tmp_path)
    assert (exact.returncode, greedy.returncode) == (0, 0)
    best, found = json.loads(exact.stdout), json.loads(greedy.stdout)
    assert best["status"] == "optimal"
    assert found["lower_bound"] is None
    assert best["objective"] <= found["objective"] + 1e-9


def test_simulate_prints_a_score(tmp_path: Path, file: str) -> None:
    run = lemix("simulate", file, "--policy", "random", "--seed", "3", "--json", cwd=tmp_path)
    assert run.returncode == 0
    assert json.loads(run.stdout)["violations"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("solve", "absent.json"), 2, "absent.json: no such file"),
        (("solve", "FILE", "--solver", "cpsatt"), 2, "Did you mean 'cpsat'"),
        (("simulate", "FILE", "--policy", "jsk"), 2, "Did you mean 'jsq'"),
        (("solve", "FILE", "--makespan", "-1"), 2, "makespan"),
        (("solv", "FILE"), 2, "No such command"),
    ],
)
def test_bad_use_is_one_message_and_exit_code_2(
    tmp_path: Path, file: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    run = lemix(*(file if a == "FILE" else a for a in arguments), cwd=tmp_path)
    assert run.returncode == code
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_versions_names_both_paths_of_a_hidden_room(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    run = lemix("versions", cwd=tmp_path, path=str(tmp_path))
    assert run.returncode == 0
    said = run.stdout + run.stderr
    assert str(tmp_path / "experiments") in said
    assert str(HOME / "experiments") in said


def test_solvers_are_listed_with_their_parameters(tmp_path: Path) -> None:
    run = lemix("solvers", "--json", cwd=tmp_path)
    listed = json.loads(run.stdout)
    assert listed["solver cpsat"] == "workers"
    assert "variant" in listed["policy lemix-reference"]
