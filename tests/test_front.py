"""`solve` with a policy: status and explanation say what the schedule is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from strategies import generating, instances
from test_end_reasons import requests
from test_engine import build, run

import solvers.front
from lemix_opt import Instance
from lemix_opt.beyond import GAVE_WAY
from lemix_opt.memory_wait import MemoryWait
from lemix_opt.schedule import Schedule
from lemix_opt.validation import validate
from solvers import solve


def turning_away() -> Instance:
    """Training is turned away while a request is still to come."""
    kind, release_s = [0, 1, 1, 0], [0.0, 0.0, 0.0, 9.0]
    return build(kind, release_s, slo_unit_s=0.5)


def test_a_declared_rule_beyond_the_model_is_feasible_with_a_note() -> None:
    result = solve(turning_away(), "lemix-reference")
    assert result.schedule is not None
    assert result.schedule.gave_way
    assert (result.status, result.lower_bound, result.gap) == ("feasible", None, None)
    assert result.explanation == f"outside the exact model: {GAVE_WAY}"
    assert result.to_dict()["schedule"]["gave_way"] == [list(p) for p in result.schedule.gave_way]


def test_notes_are_joined_not_overwritten() -> None:
    instance = replace(turning_away(), memory_wait=MemoryWait(0.0, 50.0))
    found = solve(instance, "lemix-reference")
    assert found.explanation.startswith("outside the exact model: memory_wait MemoryWait(")
    assert found.explanation.endswith(f", {GAVE_WAY}")
    better = solve(instance, "lemix-reference", initial=run(instance))
    assert better.explanation.startswith("the initial schedule is better; outside the exact model")


def test_a_task_that_is_not_done_makes_the_result_incomplete() -> None:
    result = solve(requests([900, 100], [10, 10]), "lemix-reference")
    assert result.status == "incomplete"
    assert result.objective == float("inf")
    assert "task 0 needs 909 tokens of KV memory, 800 fit" in result.explanation
    assert "outside the exact model: generation" in result.explanation


def test_a_broken_rule_makes_the_result_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = build([0, 0], [0.0, 0.0])
    good = run(instance)

    def broken(*arguments: object, **keywords: object) -> Schedule:
        return replace(good, release_s=[0.0, 0.5])

    monkeypatch.setattr(solvers.front, "simulate", broken)
    result = solve(instance, "jsq")
    assert result.status == "invalid"
    assert result.explanation.startswith("breaks the rule stored_release: task 1 has the stored")


@given(instances(max_tasks=6, beyond=True, shared=None) | generating(max_tasks=5))
@settings(max_examples=60, deadline=None)
def test_the_status_is_what_the_validator_says(instance: Instance) -> None:
    for name in ("lemix-reference", "jsq"):
        result = solve(instance, name)
        assert result.schedule is not None
        rules = {v.rule for v in validate(instance, result.schedule)}
        wanted = "feasible" if not rules else "incomplete" if rules == {"not_done"} else "invalid"
        assert result.status == wanted
        assert result.schedule.complete == (result.objective != float("inf"))
