"""The main job on synthetic and on measured data: figures that must hold together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from measured_data import DATA, needs_data

from experiments.comparison import compare
from experiments.report import report_text, write_report
from experiments.study import Study, build
from experiments.tables import read_parquet
from experiments.windows import ExactSettings, cut
from lemix_opt.errors import FieldError, UnknownNameError
from lemix_opt.grid import on_grid

SMALL = Study(tasks=18, nodes=2, stages=2, load=0.9, seed=3)
EXACT = ExactSettings(time_limit_s=60)


def test_arrivals_are_on_the_grid_and_as_many_train_as_asked() -> None:
    instance = build(Study(tasks=200, load=0.9)).trace.instance
    assert on_grid(instance.workload.release_s, instance.tick_s)
    assert instance.workload.is_training.mean() == pytest.approx(0.3)


def test_windows_cover_the_run_and_keep_its_slo() -> None:
    trace = build(SMALL).trace
    parts = cut(trace, 8)
    assert [p.instance.tasks for p in parts] == [8, 8, 2]
    assert {p.instance.slo_unit_s for p in parts} == {trace.instance.slo_unit_s}
    assert all(p.instance.workload.release_s.min() == 0 for p in parts)
    gaps = np.diff(parts[1].instance.workload.release_s)
    assert gaps == pytest.approx(np.diff(trace.instance.workload.release_s[8:16]))


def test_bound_optimum_and_policies_are_in_order() -> None:
    found = compare(SMALL, ("lemix", "jsq", "lemix-reference"), EXACT, window=6)
    exact = {r["window"]: r for r in found.windows if r["name"] == "cpsat"}
    assert all(row["proven"] for row in exact.values())
    for row in found.windows:
        best = exact[row["window"]]["objective_s"]
        assert row["lower_bound_s"] <= best + 1e-9
        if row["in_model"]:
            assert row["objective_s"] >= best - 1e-9
            assert row["above_optimum"] == pytest.approx(row["objective_s"] / best - 1)
        else:
            assert row["above_optimum"] is None
            assert row["gap_to_bound"] is None
    summary = {row["name"]: row for row in found.summary}
    assert summary["cpsat"]["above_optimum"] == pytest.approx(0, abs=1e-9)
    assert summary["cpsat"]["closed"] == 3
    assert report_text(found).split()[:2] == ["truth", "synthetic:"]


def test_tables_do_not_depend_on_processes() -> None:
    one = compare(SMALL, ("lemix", "random"), EXACT, window=6, jobs=1)
    two = compare(SMALL, ("lemix", "random"), EXACT, window=6, jobs=2)
    assert (one.run, one.windows, one.summary) == (two.run, two.windows, two.summary)


def test_tables_are_byte_identical_in_different_processes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from experiments.comparison import compare; from experiments.report import write_report\n"
        "from experiments.study import Study; from experiments.windows import ExactSettings\n"
        "s = Study(tasks=12, nodes=2, stages=2, load=0.9)\n"
        "c = compare(s, ('lemix', 'random'), ExactSettings(time_limit_s=60), window=6)\n"
        "write_report(c, Path(sys.argv[1]))\n"
    )
    for name, hashing in (("a", "1"), ("b", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": hashing}
        root = Path(__file__).resolve().parents[1]
        call = [sys.executable, "-c", code, str(tmp_path / name)]
        subprocess.run(call, check=True, cwd=root, env=environment)
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert names == {p.name for p in (tmp_path / "b").iterdir()}
    for name in names - {"times.parquet", "times.txt"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_report_can_be_read_back(tmp_path: Path) -> None:
    found = compare(SMALL, ("jsq",), None)
    files = {p.name for p in write_report(found, tmp_path)}
    assert {"report.txt", "run.parquet", "run-jsq.perfetto.json.gz"} <= files
    rows, said = read_parquet(tmp_path / "run.parquet")
    assert rows[0]["actual_objective_s"] == found.run[0]["actual_objective_s"]
    assert said["truth"].startswith("synthetic")


def test_a_calibration_says_how_many_gpus_a_stage_is() -> None:
    both = build(Study(profile="llama2-70b-2xh100", tasks=20, load=0.5))
    assert both.head["cluster"].endswith("each stage 2 GPUs")
    assert both.trace.instance.cluster.memory_bytes[0, 0] == 2 * 80 * 2**30
    with pytest.raises(FieldError, match="gpu: 'h100-80gb' with the calibration llama-13b-a100"):
        build(Study(gpu="h100-80gb"))
    with pytest.raises(FieldError, match="tensor_parallel: 4 with the calibration"):
        build(Study(tensor_parallel=4))


def test_an_all_reduce_is_said_to_be_outside_lemix() -> None:
    assert "outside LeMix" not in build(Study(tasks=8)).head
    head = build(Study(tasks=8, all_reduce_s=0.0104)).head
    assert head["outside LeMix"].startswith("all-reduce of 0.011 s")


def test_a_report_does_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.report.can_plot", lambda: False)
    found = compare(SMALL, ("jsq",), EXACT, window=6)
    names = {p.name for p in write_report(found, tmp_path)}
    assert "summary.parquet" in names
    assert not any(name.endswith(".png") for name in names)


def test_a_study_without_training_is_served() -> None:
    found = compare(
        Study(tasks=8, training_share=0.0, nodes=2, stages=2, load=0.5), ("lemix",), EXACT
    )
    assert found.run[0]["inference_done"] == 8
    assert found.summary[0]["closed"] == 1


def test_names_are_checked_before_anything_runs() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'lemix'"):
        compare(SMALL, ("lemyx",), None)
    with pytest.raises(UnknownNameError, match="trace of requests"):
        build(Study(requests="azure"))
    with pytest.raises(UnknownNameError, match="profile"):
        build(Study(profile="muxserve"))
    with pytest.raises(FieldError, match="'boosted' with the calibration"):
        build(Study(predictor="boosted"))
    with pytest.raises(FieldError, match="at most 2000000"):
        build(Study(tasks=10**8))
    with pytest.raises(FieldError, match="at least one request"):
        build(Study(training_share=1.0))
    with pytest.raises(FieldError, match="one of them"):
        build(Study(load=1.0, rate_scale=2.0))


@needs_data
def test_measured_truth_is_labelled_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    mux = build(
        Study("azure_llm_2023_conv", "muxserve_llama_a100", "llama-13b", tasks=400, load=0.9)
    )
    assert mux.trace.truth == "profile"
    assert "spread none measured" in mux.head["truth"]
    counts = [int(line.split()[0]) for line in mux.foot[:3]]
    longer = int(np.sum(mux.trace.instance.workload.prompt_tokens > 512))
    assert sum(counts) == 400
    assert counts[2] == pytest.approx(longer, abs=2)
    assert mux.foot[2].endswith("measured at equal tokens, length extrapolated")
    assert f"{longer} tasks predicted beyond the fitted range of 512 tokens" in mux.foot[3]
    # The actual costs are not the predictor's.
    ratio = mux.trace.actual.forward_s / mux.trace.instance.costs.forward_s
    assert 0.02 < np.std(np.log(ratio)) < 0.3
    split = Study(
        "azure_llm_2023_conv", "splitwise_perf_model", "llama2-70b", "h100-80gb", 2, load=0.9
    )
    problem = build(split)
    assert "spread 2.27 % as its repeats" in problem.head["truth"]
    assert problem.head["cluster"].endswith("each stage 2 GPUs")


def test_separate_may_be_kept_in_step() -> None:
    study = Study(tasks=40, nodes=2, stages=2, weight_sync_s=1.13)
    found = compare(study, ("separate", "mix-rr"))
    rows = {row["name"]: row for row in found.run}
    training = int(found.problem.trace.instance.workload.is_training.sum())
    assert rows["separate"]["weight_sync_s"] == pytest.approx(1.13 * 2)
    assert rows["separate"]["rules_broken"] == 0
    assert rows["mix-rr"]["weight_sync_s"] == 0
    assert f"1.13 s after every {training // 2} trained tasks" in found.problem.head["weight sync"]
    plain = compare(Study(tasks=40, nodes=2, stages=2), ("separate",)).run[0]
    assert plain["freshness_mean_updates"] == 0 < rows["separate"]["freshness_mean_updates"]
