"""A lower risk loses fewer tasks and costs speed; policies and solver plan with quantiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.risk import STUDY, risk_text, run_risks, write_risks
from experiments.study import build
from experiments.windows import ExactSettings
from lemix_opt import replay, simulate, validate
from lemix_opt.errors import FieldError, UnknownNameError
from solvers.registry import POLICIES

SMALL = replace(STUDY, tasks=120)


def test_a_lower_risk_loses_fewer_tasks_and_costs_speed(tmp_path: Path) -> None:
    found = run_risks(STUDY, (0.5, 0.01), ("mix-rr", "lemix"), seeds=2)
    by = {(row["name"], row["risk"]): row for row in found.summary}
    for name in ("mix-rr", "lemix"):
        assert by[name, 0.01]["out_of_memory"] < by[name, 0.5]["out_of_memory"]
        assert by[name, 0.01]["throughput_per_s"] < by[name, 0.5]["throughput_per_s"]
        assert by[name, 0.01]["out_of_memory"] >= by[name, 0.01]["too_large"]
    assert "synthetic" in found.head["truth"]
    assert "synthetic" in found.head["memory"]
    assert (tmp_path / "risk.txt") in write_risks(found, tmp_path)
    assert "too large alone" in risk_text(found)


def test_the_exact_model_plans_with_the_quantile_too() -> None:
    exact = ExactSettings("cpsat", 10.0, None)
    found = run_risks(SMALL, (0.5, 0.01), (), exact, seeds=1, window=6, windows=2)
    assert {row["name"] for row in found.runs} == {"cpsat"}
    assert len(found.runs) == 4
    assert all(row["done"] + row["out_of_memory"] == row["tasks"] for row in found.runs)


def test_only_what_is_planned_with_depends_on_the_risk() -> None:
    bold, shy = (build(replace(SMALL, risk=risk)) for risk in (0.5, 0.05))
    assert bold.objective == shy.objective
    assert bold.trace.instance.workload == shy.trace.instance.workload
    assert bold.trace.instance.slo_unit_s == shy.trace.instance.slo_unit_s
    assert bold.trace.actual == shy.trace.actual
    held = [p.trace.instance.costs.held_bytes for p in (bold, shy)]
    assert np.all(held[0] <= held[1])
    assert np.any(held[0] < held[1])
    over = shy.trace.actual.held_bytes > held[1]
    assert 0 < np.mean(over[0].any(axis=1)) < 0.15
    plan = simulate(shy.trace.instance, POLICIES.create("lemix"), seed=0)
    assert validate(shy.trace.instance, plan) == []


def test_without_a_risk_bytes_come_true_as_predicted() -> None:
    problem = build(replace(SMALL, risk=None))
    trace = problem.trace
    assert np.array_equal(trace.actual.held_bytes, trace.instance.costs.held_bytes)
    assert replay(trace, POLICIES.create("mix-rr")).score.out_of_memory_events == 0


def test_a_quantile_of_seconds_reaches_the_instance() -> None:
    plain, slow = (build(replace(SMALL, time_quantile=q)).trace.instance for q in (None, 0.95))
    assert np.all(slow.costs.forward_s >= plain.costs.forward_s)
    assert np.mean(slow.costs.forward_s / plain.costs.forward_s) > 1.02
    assert slow.workload == plain.workload


@pytest.mark.parametrize("risk", [0.0, 1.0, -0.1, 1e-6])
def test_risks_out_of_range_are_refused(risk: float) -> None:
    with pytest.raises(FieldError, match=r"risk|memory_quantile"):
        build(replace(SMALL, risk=risk))


def test_unknown_names_are_refused_before_anything_runs() -> None:
    with pytest.raises(UnknownNameError, match="lemix"):
        run_risks(SMALL, policies=("lemiks",))
    with pytest.raises(FieldError, match="risks"):
        run_risks(SMALL, ())
