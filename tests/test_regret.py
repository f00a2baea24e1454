"""Regret: zero where predictions are true, never negative against the optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_instances import PATIENT_S, tiny

import solvers
from experiments import regret as judge
from experiments.regret import Clairvoyant, Regret, clairvoyant, regret, total
from experiments.windows import cut
from lemix_opt import Objective, Result, Trace
from lemix_opt.errors import FieldError
from solvers.registry import POLICIES

OBJECTIVE = Objective(inference_response=4, training_response=1)


def judged(seed: int, factor: float) -> tuple[Regret, Clairvoyant]:
    instance = tiny(seed, "async", False)
    worse = np.random.default_rng(seed).uniform(1, factor, instance.costs.forward_s.shape)
    # Whole ticks, so that the optimum on actual costs can be proven.
    seconds = np.ceil(instance.costs.forward_s * worse / instance.tick_s) * instance.tick_s
    actual = replace(instance.costs, forward_s=seconds)
    trace = Trace(instance, actual, "synthetic", "drawn here")
    best = clairvoyant(trace, OBJECTIVE, time_limit_s=PATIENT_S)
    (found,) = regret(trace, [("jsq", POLICIES.create("jsq"))], OBJECTIVE, best)
    return found, best


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_decisions_never_beat_the_optimum(seed: int) -> None:
    found, best = judged(seed, 2.0)
    assert best.proven
    assert best.online_s is not None
    assert best.bound_s == best.best_s
    if not np.isfinite(found.informed_s):
        return
    assert found.decision_s[0] == found.decision_s[1] >= -1e-9
    assert found.online_s[0] >= -1e-9
    assert found.prediction_s == found.predicted_s - found.informed_s


def test_true_predictions_cost_nothing() -> None:
    found, _ = judged(1, 1.0)
    assert found.prediction_s == 0.0


def test_windows_add_up() -> None:
    one = Regret("jsq", 3.0, 2.0, 1.0, (0.5, 0.75), (0.25, 0.5))
    (both,) = total([(one,), (one,)])
    assert both == Regret("jsq", 6.0, 4.0, 2.0, (1.0, 1.5), (0.5, 1.0))


def test_off_the_grid_the_optimum_lies_between_bounds_close_by() -> None:
    """On the instance's own ticks the rounding alone would be most of a tick per operation."""
    instance = tiny(1, "async", False)
    longer = instance.costs.forward_s * np.random.default_rng(0).uniform(
        1, 1.5, instance.costs.forward_s.shape
    )
    trace = Trace(instance, replace(instance.costs, forward_s=longer), "synthetic", "drawn here")
    best = clairvoyant(trace, OBJECTIVE, time_limit_s=PATIENT_S)
    assert not best.proven
    assert best.bound_s <= best.best_s
    weight = 4 * instance.tasks
    assert best.best_s - best.bound_s < weight * instance.cluster.stages * longer.min() / 100
    assert best.above(best.best_s + 1) == pytest.approx((1, 1 + best.best_s - best.bound_s))


def test_windows_are_judged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window takes an equal part of what the windows before it have left."""
    limits = []

    def known(part: Trace, objective: Objective, *, time_limit_s: float, **_: object) -> object:
        limits.append(time_limit_s)
        return Clairvoyant(1.0, 0.5, False, None, "")

    monkeypatch.setattr(judge, "clairvoyant", known)
    instance = tiny(1, "open", False)
    trace = Trace(instance, instance.costs, "synthetic", "drawn here")
    windows = cut(trace, 1)
    found = list(
        judge.regrets(windows, [("jsq", POLICIES.create("jsq"))], OBJECTIVE, budget_s=100.0)
    )
    assert [window.number for window in found] == list(range(instance.tasks))
    assert limits[0] == pytest.approx(100 / instance.tasks, rel=0.1)
    assert limits[-1] == pytest.approx(100, rel=0.1)
    with pytest.raises(FieldError, match="budget_s"):
        list(judge.regrets(windows, [], OBJECTIVE, budget_s=0))


@pytest.mark.parametrize("solver", ["reoptimise", "portfolio"])
def test_an_interrupted_solver_ends_the_run(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(instance: object, name: str, *rest: object, **more: object) -> Result:
        found = solvers.front.solve(instance, "jsq", OBJECTIVE)  # type: ignore[arg-type]
        return replace(found, explanation="interrupted" if name == solver else "")

    monkeypatch.setattr(solvers, "solve", stopped)
    instance = tiny(1, "open", False)
    trace = Trace(instance, instance.costs, "synthetic", "drawn here")
    with pytest.raises(KeyboardInterrupt):
        clairvoyant(trace, OBJECTIVE)


def test_levels_are_refused() -> None:
    instance = tiny(0, "async", False)
    trace = Trace(instance, instance.costs, "synthetic", "drawn here")
    with pytest.raises(FieldError, match="lexicographic"):
        clairvoyant(
            trace,
            Objective(
                makespan=1, inference_response=1, lexicographic=("makespan", "inference_response")
            ),
        )
