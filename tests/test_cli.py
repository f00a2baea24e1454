"""The `lemix` command as a user meets it: output, exit codes, no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_end_reasons import requests
from test_front import turning_away
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


def test_solve_exits_by_what_the_schedule_of_a_policy_is(tmp_path: Path) -> None:
    write(turning_away(), tmp_path / "away.json")
    declared = lemix("solve", "away.json", "--solver", "lemix-reference", cwd=tmp_path)
    assert declared.returncode == 0, declared.stdout
    assert "give up their place in the closed loop" in declared.stdout
    simulated = lemix("simulate", "away.json", "--policy", "lemix-reference", cwd=tmp_path)
    assert simulated.returncode == 0, simulated.stdout
    write(requests([900, 100], [10, 10]), tmp_path / "long.json")
    undone = lemix("solve", "long.json", "--solver", "lemix-reference", "--json", cwd=tmp_path)
    assert undone.returncode == 1
    assert json.loads(undone.stdout)["status"] == "incomplete"
    placed = ("--policy", "lemix-reference", "--out", "s.json")
    said = lemix("simulate", "long.json", *placed, cwd=tmp_path)
    assert said.returncode == 1
    assert "task 0 needs 909 tokens of KV memory, 800 fit" in said.stdout
    checked = lemix("validate", "long.json", "s.json", cwd=tmp_path)
    assert "not_done: task 0 is not done: it needs 909 tokens" in checked.stdout


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
    assert listed["solver cpsat"].startswith("workers, parts")
    assert "variant" in listed["policy lemix-reference"]


def test_a_schedule_goes_through_validate_and_replay(tmp_path: Path, file: str) -> None:
    plan = str(tmp_path / "plan.json")
    assert lemix("solve", file, "--out", plan, cwd=tmp_path).returncode == 0
    good = lemix("validate", file, plan, "--explain", cwd=tmp_path)
    assert (good.returncode, good.stdout.splitlines()[0]) == (0, "feasible")
    assert good.stdout.splitlines()[-1].startswith("makespan")
    broken = json.loads(Path(plan).read_text())
    broken["operations"]["start_s"][0] += 0.5
    broken["operations"]["end_s"][0] += 0.5
    Path(plan).write_text(json.dumps(broken))
    bad = lemix("validate", file, plan, "--json", cwd=tmp_path)
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["feasible"] is False


def test_compare_leaves_a_trace_that_replay_reads(tmp_path: Path) -> None:
    arguments = "--requests poisson --profile llama-13b-a100 --tasks 12 --nodes 2 --stages 2"
    compared = lemix(
        "compare",
        *arguments.split(),
        *["--load", "0.9", "--policies", "jsq,lemix", "--window", "6", "--out", "found", "--json"],
        cwd=tmp_path,
    )
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert found["head"]["truth"].startswith("synthetic")
    assert {row["name"] for row in found["summary"]} == {"jsq", "lemix", "cpsat"}
    again = lemix("replay", "found/trace.zip", "--policy", "jsq", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout)
    run = next(row for row in found["run"] if row["name"] == "jsq")
    assert said["response_p99_s"] == run["response_p99_s"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("compare --requests poisson --profile llama --out x", "unknown profile 'llama'"),
        (
            "compare --requests poisson --profile llama-13b-a100 --policies jsk --out x",
            "Did you mean 'jsq'",
        ),
        ("compare --requests poisson --profile llama-13b-a100 --load 0 --out x", "load"),
        ("fit --profile muxserve_llama_a100 --model llama-13b", "LEMIX_DATA"),
        ("datasets azure", "unknown dataset 'azure'"),
        ("sweep absent.toml --out x", "absent.toml: no such file"),
        ("replay absent.json --policy jsq", "absent.json: no such file"),
        ("validate absent.json absent.json", "absent.json: no such file"),
    ],
)
def test_bad_use_is_one_line_and_code_2(
    tmp_path: Path, arguments: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEMIX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = lemix(*arguments.split(), cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_workers_of_a_sweep_pass_over_a_users_folder(tmp_path: Path) -> None:
    """A folder called `experiments` in the working directory reaches no worker process."""
    for room in ("experiments", "solvers"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise RuntimeError('mine')")
    (tmp_path / "grid.toml").write_text(
        "seeds = [0, 1]\n[[instance]]\nstudy = { tasks = 6, nodes = 2, stages = 2, load = 0.9 }\n"
        '[[solver]]\nname = "jsq"\n'
    )
    run = lemix("sweep", "grid.toml", "--out", "out", "--jobs", "2", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [row["error"] for row in json.loads(run.stdout)["rows"]] == [None, None]
