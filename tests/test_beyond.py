"""What lies beyond the exact model is said wherever a bound would be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_engine import Deferring
from test_validation_events import given_way

from experiments.regret import Clairvoyant, regret
from experiments.regret_report import _interval
from lemix_opt import Objective, Trace, simulate
from lemix_opt.beyond import GAVE_WAY, beyond_exact_model, require_loop_order
from lemix_opt.errors import UnsupportedError
from lemix_opt.graph import operation_graph
from solvers import solve


def test_rules_of_the_instance_and_of_the_schedule_are_named() -> None:
    instance, schedule = given_way()
    assert beyond_exact_model(instance, replace(schedule, gave_way=())) == ""
    assert beyond_exact_model(instance, schedule) == f"outside the exact model: {GAVE_WAY}"
    shared = replace(instance, gpu_sharing="reference_threads")
    assert beyond_exact_model(shared, schedule) == (
        f"outside the exact model: gpu_sharing 'reference_threads', {GAVE_WAY}"
    )


def test_a_schedule_in_another_order_of_the_loop_is_refused_by_name() -> None:
    instance, schedule = given_way()
    with pytest.raises(UnsupportedError, match="initial: deferred training tasks give up"):
        require_loop_order(schedule, "initial")
    require_loop_order(simulate(instance, Deferring()), "initial")
    for solver in ("cpsat", "portfolio", "milp", "anneal"):
        with pytest.raises(UnsupportedError, match="initial: deferred training tasks give up"):
            solve(instance, solver, initial=schedule)


def test_decisions_outside_the_model_get_no_regret() -> None:
    instance, _ = given_way()
    trace = Trace(instance, instance.costs, "synthetic", "made up")
    optimum = Clairvoyant(1.0, 1.0, True, None, "")
    policies = [("yields", Deferring(keeps_place=False)), ("waits", Deferring())]
    yields, waits = regret(trace, policies, Objective(makespan=1.0), optimum)
    assert _interval(yields.decision_s) == "unknown"
    assert GAVE_WAY in yields.outside
    assert (np.isfinite(waits.decision_s[0]), waits.outside) == (True, "")


def test_nobody_waits_for_a_task_that_gave_way() -> None:
    instance, schedule = given_way()
    reasons = {e["reason"] for _, _, e in operation_graph(instance, schedule).edges(data=True)}
    assert "loop" not in reasons
