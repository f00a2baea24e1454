"""Trace and schedule files come back as they were; damaged ones are refused."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from strategies import generating
from strategies import instances as some
from test_validation import valid

from instances.trace_files import read_schedule, read_trace, write_schedule, write_trace
from lemix_opt import Instance, LemixError, Trace, simulate
from solvers.registry import POLICIES


@given(some(max_tasks=5) | generating(max_tasks=5))
@settings(max_examples=60, deadline=None)
def test_traces_and_schedules_come_back_equal(instance: Instance) -> None:
    schedule = simulate(instance, POLICIES.create("mix-rr"))
    slow = replace(instance.costs, forward_s=1.5 * instance.costs.forward_s)
    trace = Trace(instance, slow, "synthetic", "drawn", schedule)
    with tempfile.TemporaryDirectory() as folder:
        write_trace(trace, Path(folder) / "t.json.gz")
        write_schedule(schedule, Path(folder) / "s.json")
        again = read_trace(Path(folder) / "t.json.gz")
        assert read_schedule(Path(folder) / "s.json") == schedule
    assert again.instance == instance
    assert again.actual == slow or not instance.tasks
    assert (again.schedule, again.truth, again.provenance) == (schedule, "synthetic", "drawn")


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    instance = valid()[0]
    write_trace(Trace(instance, instance.costs, "profile", "p"), tmp_path / "t.json")
    found: dict[str, Any] = json.loads((tmp_path / "t.json").read_text())
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"truth": "recorded by hand"}, "truth"),
        ({"actual": 3}, "actual: int; expected an object"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"format": "lemix-opt instance"}, "expected 'lemix-opt trace', version 1"),
        ({"schedule": {"node": [0]}}, "missing field 'end_state'"),
    ],
)
def test_damage_is_named(
    plain: dict[str, Any], change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(plain | change))
    with pytest.raises(LemixError, match=said) as caught:
        read_trace(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value) or "truth" in said
