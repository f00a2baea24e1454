"""Schedule files come back as they were; damaged ones are refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from strategies import generating
from strategies import instances as some
from test_validation import valid

from instances.schedule_files import read_schedule, write_schedule
from lemix_opt import Instance, LemixError, simulate
from solvers.registry import POLICIES


@given(some(max_tasks=5) | generating(max_tasks=5))
@settings(max_examples=60, deadline=None)
def test_schedules_come_back_equal(instance: Instance) -> None:
    schedule = simulate(instance, POLICIES.create("mix-rr"))
    with tempfile.TemporaryDirectory() as folder:
        write_schedule(schedule, Path(folder) / "s.json")
        assert read_schedule(Path(folder) / "s.json") == schedule


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"operations": 3}, "operations: int; expected an object"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"format": "lemix-opt instance"}, "expected 'lemix-opt schedule', version 1"),
        ({"release_s": 3}, "release_s: no list"),
        ({"out_of_memory": [[1]]}, "out_of_memory"),
    ],
)
def test_damage_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    instance = valid()[0]
    write_schedule(simulate(instance, POLICIES.create("mix-rr")), tmp_path / "s.json")
    plain = json.loads((tmp_path / "s.json").read_text())
    (tmp_path / "bad.json").write_text(json.dumps(plain | change))
    with pytest.raises(LemixError, match=said) as caught:
        read_schedule(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value)
