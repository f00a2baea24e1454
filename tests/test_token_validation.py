"""The validator of token generation: what is changed in a good schedule is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_generation import requests, run

from lemix_opt import Instance, Schedule, validate

# Iterations end at 2, 3.51 and 4.53 s; the second request joins in the second one.
INSTANCE = requests([10, 5], [3, 2], [0.0, 0.5])


def changed(schedule: Schedule, part: str, name: str, at: Any, value: float) -> Schedule:
    made = schedule.generated
    assert made is not None
    owner: Any = made.iterations if part == "iterations" else made
    column = np.array(getattr(owner, name))
    column[at] = value
    owner = replace(owner, **{name: column})
    made = replace(made, iterations=owner) if part == "iterations" else owner
    return replace(schedule, generated=made)


def rules(instance: Instance, schedule: Schedule) -> set[str]:
    return {v.rule for v in validate(instance, schedule)}


@pytest.mark.parametrize(
    ("part", "name", "at", "value", "rule"),
    [
        ("iterations", "end_s", (2, 0), 4.6, "duration"),
        ("iterations", "start_s", (1, 0), 1.9, "one_iteration"),
        ("iterations", "start_s", (1, 0), 1.9, "exclusive"),
        ("iterations", "prefill_tokens", 1, 4, "batch"),
        ("iterations", "context_tokens", 2, 17, "batch"),
        ("iterations", "kv_tokens", 2, 12, "batch"),
        ("iterations", "kv_tokens", 2, 10**6, "memory"),
        ("generated", "tokens", 0, 2, "tokens"),
        ("generated", "first_token_s", 1, 2.5, "tokens"),
        ("generated", "last_token_s", 0, 3.51, "tokens"),
        ("generated", "start_s", 1, 0.4, "release"),
    ],
)
def test_a_change_is_found(part: str, name: str, at: Any, value: float, rule: str) -> None:
    schedule = run(INSTANCE)
    assert validate(INSTANCE, schedule) == []
    assert rule in rules(INSTANCE, changed(schedule, part, name, at, value))


def test_stricter_rules_are_broken() -> None:
    schedule = run(INSTANCE)
    generation = INSTANCE.generation
    assert generation is not None
    capped = replace(INSTANCE, generation=replace(generation, batch_cap=1))
    assert "batch_cap" in rules(capped, schedule)
    cut = replace(INSTANCE, generation=replace(generation, batch_cap=2, chunk_tokens=5))
    assert "chunk" in rules(cut, schedule)
    assert rules(replace(INSTANCE, generation=None), schedule) == {"generated"}
    assert rules(INSTANCE, replace(schedule, generated=None)) == {"generated"}


def test_preempted_requests_and_the_published_rule_pass() -> None:
    for instance in (
        requests([4, 4], [4, 3], memory_bytes=9.0),
        requests([2, 10], [4, 1], batch_cap=2, chunk_tokens=6),
        requests([12, 4], [9, 9], rule="reference", batch_cap=2, clear_tokens=12),
    ):
        assert validate(instance, run(instance)) == []
