"""Regret: zero where predictions are true, never negative against the optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_instances import PATIENT_S, tiny

from experiments.regret import Clairvoyant, Regret, clairvoyant, regret, total
from lemix_opt import Objective, Trace
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
