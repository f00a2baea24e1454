"""`lemix bench`: what it prints, what counts, what it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_benchmarks_suite_files import row, written
from test_cli import lemix

from experiments.bench import BenchSettings, run_bench, run_one
from experiments.bench_report import report_text, times_text, write_bench
from experiments.bench_summary import shifted_geometric_mean, summarised, times_summarised
from experiments.tables import read_parquet
from instances.benchmarks import suite
from instances.benchmarks.best_known import read_best_known
from lemix_opt.errors import FieldError, UnknownNameError
from lemix_opt.result import Result
from solvers.registry import SOLVERS


def test_the_shifted_geometric_mean() -> None:
    assert shifted_geometric_mean([1.0, 7.0]) == pytest.approx(3.0)
    assert shifted_geometric_mean([2.0, 2.0]) == pytest.approx(2.0)
    assert np.isnan(shifted_geometric_mean([]))


def test_a_small_flow_shop_is_proven_and_laid_beside_the_literature() -> None:
    settings = BenchSettings(("mix-rr", "cpsat"), time_limit_s=30)
    bench = run_bench("taillard-20x5", settings, limit=1)
    greedy, exact = bench.rows
    assert (greedy["instance"], greedy["solver"]) == ("ta001", "mix-rr")
    assert greedy["lower_bound_s"] is None
    assert greedy["gap_to_best_lower"] == pytest.approx(1 - 1.278 / greedy["objective_s"])
    assert greedy["above_best"] == pytest.approx(greedy["objective_s"] / 1.278 - 1)
    assert exact["status"] == "optimal"
    assert exact["objective_s"] == pytest.approx(1.278)
    assert bench.failed == 0
    assert bench.times[0]["optimal_after_s"] is None
    assert 0 < bench.times[1]["optimal_after_s"] < 30
    text = report_text(bench)
    assert "published seeds" in text
    assert "1.278" in text


def test_unproven_instances_count_with_the_limit() -> None:
    times = [
        {"cell": "a", "solver": "s", "proves": True, "optimal_after_s": 1.0, "wall_s": 1.0},
        {"cell": "a", "solver": "s", "proves": True, "optimal_after_s": None, "wall_s": 8.0},
        {"cell": "b", "solver": "s", "proves": True, "optimal_after_s": 7.5, "wall_s": 7.5},
        {"cell": "b", "solver": "p", "proves": False, "optimal_after_s": None, "wall_s": 0.1},
    ]
    found = {(r["cell"], r["solver"]): r for r in times_summarised(times, 7.0)}
    assert found["a", "s"]["geometric_mean_s"] == pytest.approx(3.0)
    assert found["a", "s"]["proven"] == 1
    assert found["b", "s"]["geometric_mean_s"] == pytest.approx(7.0)
    assert found["b", "p"]["geometric_mean_s"] is None
    assert found["all", "s"]["instances"] == 3


def test_the_summary_knows_what_is_missing() -> None:
    one = {"cell": "a", "solver": "s", "proves": True, "status": "optimal", "objective_s": 2.0}
    rows = [
        one | {"gap": 0.0, "above_best": -0.1},
        one | {"gap": None, "above_best": None, "status": "unknown", "objective_s": None},
        one | {"gap": 0.2, "above_best": 0.0, "status": "feasible"},
    ]
    (found,) = summarised(rows)
    assert (found["solved"], found["proven"], found["compared"]) == (2, 1, 2)
    assert found["median_gap"] == pytest.approx(0.2)
    assert (found["reached_best"], found["beat_best"]) == (2, 1)


class _Wrong:
    """A solver that halves all times of a good schedule."""

    def __init__(self, workers: int = 1) -> None:
        pass

    def solve(self, instance: Any, objective: Any, **other: Any) -> Result:
        from solvers import solve

        good = solve(instance, "jsq", objective)
        assert good.schedule is not None
        ops = good.schedule.operations
        half = replace(ops, start_s=ops.start_s / 2, end_s=ops.end_s / 2)
        schedule = replace(good.schedule, operations=half)
        return replace(good, status="optimal", schedule=schedule, objective=0.1, lower_bound=0.1)


class _Broken(_Wrong):
    def solve(self, instance: Any, objective: Any, **other: Any) -> Result:
        raise RuntimeError("out of order")


class _Boasting(_Wrong):
    def solve(self, instance: Any, objective: Any, **other: Any) -> Result:
        from solvers import solve

        return replace(solve(instance, "jsq", objective), status="optimal", lower_bound=0.01)


@pytest.fixture
def bad_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"wrong": _Wrong, "broken": _Broken, "boasting": _Boasting}
    monkeypatch.setattr(SOLVERS, "_extra", bad)


@pytest.mark.usefixtures("bad_solvers")
def test_a_schedule_that_breaks_a_rule_counts_for_nothing(tmp_path: Path) -> None:
    settings = BenchSettings(("wrong", "broken", "boasting"))
    table = tmp_path / "own.json"
    bench = run_bench("p-cmax", settings, limit=1, update=table)
    wrong, broken, boasting = bench.rows
    assert wrong["objective_s"] is None
    assert "a result that does not hold: its schedule breaks a rule" in wrong["error"]
    assert broken["error"] == "unexpected RuntimeError: out of order"
    assert "it is called optimal with bounds" in boasting["error"]
    assert all(row["proven"] == 0 for row in bench.summary)
    assert (bench.failed, bench.better) == (3, 0)
    assert bench.times[0]["optimal_after_s"] is None
    assert read_best_known(table) == read_best_known()
    assert "out of order" in report_text(bench)


def test_better_bounds_are_kept_and_used(tmp_path: Path) -> None:
    file = str(written(tmp_path / "own.json", [row(proven=None)]))
    table = tmp_path / "best.json"
    first = run_bench(file, BenchSettings(("mix-rr",)), update=table)
    second = run_bench(file, BenchSettings(("cpsat",), time_limit_s=10), update=table)
    third = run_bench(file, BenchSettings(("cpsat",), time_limit_s=10), update=table)
    assert (first.better, second.better, third.better) == (1, 1, 0)
    assert first.rows[0]["best_upper_s"] is None
    assert second.rows[0]["best_upper_s"] == pytest.approx(first.rows[0]["objective_s"])
    assert third.rows[0]["best_lower_s"] == pytest.approx(third.rows[0]["objective_s"])
    best = suite(file, table=read_best_known(table))[0].best_known["slo"]
    assert best.lower is not None
    assert best.lower.certificate.startswith("proof of cpsat")
    assert best.lower.machine.endswith("1 worker")


@pytest.mark.parametrize("solver", ["mix-rr", "cpsat"])
def test_wrong_optima_are_told(tmp_path: Path, solver: str) -> None:
    # Too high an "optimum" contradicts any schedule, too low a one only a proof.
    claimed = 3.5 if solver == "mix-rr" else 0.001
    file = str(written(tmp_path / "own.json", [row(proven={"slo_s": claimed})]))
    bench = run_bench(file, BenchSettings((solver,)), update=tmp_path / "best.json")
    assert bench.rows[0]["status"] == "bounds contradict"
    assert "one of the two is wrong" in bench.rows[0]["error"]
    assert (bench.failed, bench.better, bench.summary[0]["proven"]) == (1, 0, 0)


def test_processes_do_not_change_the_table() -> None:
    settings = BenchSettings(("mix-rr", "jsq"))
    alone = run_bench("serving-small", settings, seeds=1)
    spread = run_bench("serving-small", settings, seeds=1, jobs=2)
    assert report_text(alone) == report_text(spread)
    assert spread.measured_on.endswith("2 processes")
    with pytest.raises(FieldError, match="workers"):
        run_bench("serving-small", replace(settings, workers=2), jobs=2)


def test_tables_are_written(tmp_path: Path) -> None:
    bench = run_bench("p-rj-cmax", BenchSettings(("mix-rr",)), seeds=1)
    files = write_bench(bench, tmp_path / "out", 60.0)
    assert {f.name for f in files} >= {"report.txt", "times.txt", "results.parquet"}
    rows, head = read_parquet(tmp_path / "out" / "results.parquet")
    assert [r["instance"] for r in rows] == [r["instance"] for r in bench.rows]
    assert head["suite"] == "p-rj-cmax"
    assert "wall" not in (tmp_path / "out" / "report.txt").read_text().replace("wall time per", "")


def test_a_limit_that_is_reached_is_shown() -> None:
    benchmark = suite("serving-medium", seeds=1)[1]
    run = run_one(benchmark, "cpsat", BenchSettings(time_limit_s=0.5))
    assert run.row["status"] in ("feasible", "unknown")
    bench = run_bench("taillard-20x5", BenchSettings(("mix-rr",)), limit=1)
    assert "> 0.5" in times_text(replace(bench, times=(run.took,)), 0.5)


def test_names_are_checked_before_anything_runs() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cpsat'"):
        BenchSettings(("cpsaat",))
    with pytest.raises(FieldError, match="different names"):
        BenchSettings(("jsq", "jsq"))
    with pytest.raises(FieldError, match="time_limit_s"):
        BenchSettings(time_limit_s=0)
    with pytest.raises(UnknownNameError, match="Known: makespan"):
        run_bench("p-cmax", BenchSettings(objective="slo"))


def test_the_command_end_to_end(tmp_path: Path) -> None:
    arguments = "bench serving-small --seeds 1 --limit 1 --time-limit-s 20 --objective makespan"
    run = lemix(
        *arguments.split(),
        *["--solver", "mix-rr", "--solver", "cpsat", "--out", "found", "--json"],
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert [r["solver"] for r in found["rows"]] == ["mix-rr", "cpsat"]
    assert found["rows"][1]["objective_s"] <= found["rows"][0]["objective_s"]
    assert len(found["files"]) == 6
    wrong = lemix("bench", "taillard-20x6", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "Did you mean 'taillard-20x5'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
