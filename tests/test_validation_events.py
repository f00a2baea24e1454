"""Memory events and places given up in the closed loop: the engine's pass, altered ones do not."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import generating, instances
from test_engine import Deferring, build, run
from test_kernel import Whimsical, others

from lemix_opt import Costs, Instance, Schedule, simulate
from lemix_opt.errors import FieldError
from lemix_opt.schedule import DROPPED
from lemix_opt.validation import validate
from solvers.registry import POLICIES

seeds = st.integers(0, 10**6)
VARIANTS = ("as_is", "dealiased", "pure")


@given(
    instances(max_tasks=12, beyond=True), st.sampled_from(VARIANTS), st.sampled_from([0.01, 2.0])
)
@settings(max_examples=150, deadline=None)
def test_what_the_published_policy_does_follows_the_rules_it_declares(
    instance: Instance, variant: str, slo_s: float
) -> None:
    policy = POLICIES.create("lemix-reference", variant=variant, slo_threshold_s=slo_s)
    schedule = simulate(instance, policy)
    assert {v.rule for v in validate(instance, schedule)} <= {"not_done"}
    assert schedule.complete or instance.micro_batches > 1


@given(instances(max_tasks=9, beyond=True, shared=None), seeds, st.booleans())
@settings(max_examples=200, deadline=None)
def test_events_of_the_engine_are_accepted_whatever_a_policy_does(
    instance: Instance, seed: int, surprised: bool
) -> None:
    actual = others(instance, seed) if surprised else instance.costs
    schedule = simulate(instance, Whimsical(seed), actual=actual)
    found = {v.rule for v in validate(instance, schedule)}
    if schedule.complete and not surprised:
        assert not found
    assert not found & {"out_of_memory", "gave_way"}


@given(generating(max_tasks=6), seeds)
@settings(max_examples=60, deadline=None)
def test_events_are_accepted_where_requests_generate_tokens(instance: Instance, seed: int) -> None:
    schedule = simulate(instance, Whimsical(seed))
    assert not {v.rule for v in validate(instance, schedule)} & {"out_of_memory", "gave_way"}


def given_way() -> tuple[Instance, Schedule]:
    instance = build([1, 1, 0], [0.0, 0.0, 0.0], nodes=1, gpu_order="backward_first")
    schedule = simulate(instance, Deferring(keeps_place=False))
    assert schedule.gave_way == ((0, 0.0),)
    assert validate(instance, schedule) == []
    return instance, schedule


@pytest.mark.parametrize(
    ("gave_way", "rule", "said"),
    [
        ((), "stored_release", "task 1 has the stored release 0 s"),
        (((0, 0.5),), "stored_release", "task 1 has the stored release 0 s, expected 0.5 s"),
        (((0, 99.0),), "gave_way", "task 0 gives way at 99 s, after its start"),
        (((0, 0.0), (0, 0.0)), "gave_way", "task 0 gives way a second time"),
        (((0, 0.0), (1, 0.0)), "gave_way", "task 1 has no place"),
        (((0, 0.0), (2, 0.0)), "gave_way", "task 2 has no place"),
    ],
)
def test_an_altered_place_is_found(gave_way: Any, rule: str, said: str) -> None:
    instance, schedule = given_way()
    found = validate(instance, replace(schedule, gave_way=gave_way))
    assert any(v.rule == rule and v.message.startswith(said) for v in found), found


def test_a_place_given_up_before_the_release_is_found() -> None:
    instance, schedule = given_way()
    late = replace(instance, workload=replace(instance.workload, release_s=[3.0, 3.0, 0.0]))
    found = validate(late, replace(schedule, release_s=[3.0, 3.0, 0.0]))
    assert any("task 0 gives way at 0 s, before its release at 3 s" in v.message for v in found)


def test_no_place_is_given_up_where_there_is_no_loop() -> None:
    instance, schedule = given_way()
    found = validate(replace(instance, release_mode="open"), schedule)
    assert "gave_way" in {v.rule for v in found}


@pytest.mark.parametrize("gave_way", [((7, 0.0),), ((-1, 0.0),), ((0, nan),), ((0, inf),), ((0,),)])
def test_places_that_cannot_be_are_refused_when_a_schedule_is_built(gave_way: Any) -> None:
    with pytest.raises(FieldError, match="gave_way"):
        replace(given_way()[1], gave_way=gave_way)


def dropped() -> tuple[Instance, Schedule]:
    """Drop task 0 on stage 1 of node 1 at 4 s; task 1 is done on node 0."""
    instance = build([1, 1], [0.0, 0.0], nodes=2, held=1.0)
    c = instance.costs
    actual = Costs(c.forward_s * 2, c.backward_s, [[[1.0, 11.0], [1.0, 1.0]]], c.resident_bytes)
    schedule = run(instance, [1, 0], actual=actual)
    assert schedule.out_of_memory == ((0, 1, 1, 4.0),)
    assert [v.rule for v in validate(instance, schedule)] == ["not_done"]
    return instance, schedule


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ((), "task 0 is dropped without"),
        (((0, 1, 1, 4.0), (10**6, 99, 77, -1.0)), "event 1 is of task 1000000"),
        (((0, 1, 1, 4.0), (-1, 1, 1, 4.0)), "event 1 is of task -1"),
        (((0, 1, 1, 4.0), (1, 0, 0, 4.0)), "event 1 is of task 1, which is not dropped"),
        (((0, 1, 1, 4.0), (0, 1, 1, 5.0)), "event 1 is a second one of task 0"),
        (((0, 1, 0, 4.0),), "of task 0 is on node 0, expected 1"),
        (((0, 2, 1, 4.0),), "on stage 2, expected one of 2 stages"),
        (((0, -1, 1, 4.0),), "on stage -1, expected one of 2 stages"),
        (((0, 1, 1, nan),), "at nan s, expected a finite time"),
        (((0, 1, 1, -1.0),), "before its release at 0 s"),
    ],
)
def test_an_altered_memory_event_is_found(events: Any, said: str) -> None:
    instance, schedule = dropped()
    found = validate(instance, replace(schedule, out_of_memory=events))
    assert any(v.rule == "out_of_memory" and said in v.message for v in found), found


def test_nothing_of_a_task_starts_after_it_was_dropped() -> None:
    instance, schedule = dropped()
    starts = float(np.max(schedule.operations.start_s[schedule.operations.task == 0]))
    o = schedule.operations
    shift = np.where(o.task == 0, 5.0, 0.0)
    columns = {name: getattr(o, name) for name in o.__dataclass_fields__}
    columns |= {"start_s": o.start_s + shift, "end_s": o.end_s + shift}
    found = validate(instance, replace(schedule, operations=type(o)(**columns)))
    said = f"but it starts an operation at {starts + 5:.9g} s"
    assert any(v.rule == "out_of_memory" and said in v.message for v in found), found


def test_the_report_that_showed_the_gap_is_refused() -> None:
    instance = build([0, 0], [0.0, 0.0])
    schedule = run(instance)
    wrong = replace(schedule, out_of_memory=((10**6, 99, 77, -1.0), (0, 0, 0, 0.0)))
    assert not (schedule.end_state == DROPPED).any()
    assert [v.rule for v in validate(instance, wrong)] == ["out_of_memory", "out_of_memory"]
