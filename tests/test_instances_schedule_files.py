"""Schedule files come back as they were; damaged ones are refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import generating
from strategies import instances as some
from test_kernel import Whimsical
from test_validation import valid
from test_validation_events import given_way

from instances import json_columns
from instances.schedule_files import read_schedule, write_schedule
from lemix_opt import Instance, LemixError, simulate
from solvers.registry import POLICIES


@given(some(max_tasks=5) | generating(max_tasks=5), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_schedules_come_back_equal(instance: Instance, seed: int) -> None:
    schedule = simulate(instance, Whimsical(seed))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("s.json", "s.json.gz", "s.zip", "s"):
            write_schedule(schedule, Path(folder) / name)
            assert read_schedule(Path(folder) / name) == schedule
        with pytest.MonkeyPatch.context() as patch:
            # As columns are coded that are long.
            patch.setattr(json_columns, "_PIECE", 4)
            write_schedule(schedule, Path(folder) / "long.json")
            assert read_schedule(Path(folder) / "long.json") == schedule
        assert (Path(folder) / "long.json").read_bytes() == (Path(folder) / "s").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"operations": 3}, "operations: int; expected an object"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"format": "lemix-opt instance"}, "expected 'lemix-opt schedule', version 1"),
        ({"release_s": 3}, "release_s: no list"),
        ({"out_of_memory": [[1]]}, "out_of_memory"),
        ({"gave_way": 3}, "gave_way: 3; expected a list of .task, seconds."),
        ({"gave_way": [[0, 1.0, 2]]}, "gave_way"),
        ({"gave_way": [[9, 1.0]]}, "gave_way"),
        ({"gave_way": [[0, None]]}, "gave_way"),
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


def test_files_without_the_later_fields_are_read(tmp_path: Path) -> None:
    schedule = given_way()[1]
    write_schedule(schedule, tmp_path / "s.json")
    assert read_schedule(tmp_path / "s.json").gave_way == schedule.gave_way
    plain = json.loads((tmp_path / "s.json").read_text())
    del plain["gave_way"], plain["generated"]
    (tmp_path / "old.json").write_text(json.dumps(plain))
    assert read_schedule(tmp_path / "old.json").gave_way == ()
