"""What `lemix regret` says of optima that are proven, bracketed or unknown, or cut short."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments import regret
from experiments.cli import app
from experiments.demo import packaged
from experiments.regret import Clairvoyant, Regret, Window
from experiments.regret_report import regret_text, regret_values


def window(number: int, bound_s: float, proven: bool, online: tuple[float, float]) -> Window:
    optimum = Clairvoyant(2.0, bound_s, proven, None, "")
    row = Regret("jsq", 3.5, 3.0, 0.5, optimum.above(3.0), online)
    return Window(number, 10, optimum, (row,))


def test_a_bracket_is_not_called_optimal() -> None:
    exact, open_ = window(0, 2.0, True, (0.25, 0.25)), window(1, 1.5, False, (0.0, 0.5))
    text = regret_text({"trace": "t"}, [exact, open_], 2)
    assert "proven in 1 of 2 windows" in text
    assert "+2.0000 to +2.5000" in text
    assert "optimal" not in text
    assert "regrets against it are exact" in regret_text({}, [exact], 1)
    assert "+1.0000 " in regret_text({}, [exact], 1)
    values = regret_values({}, [exact, open_], 2)
    assert values["proven optima"] == 1
    assert values["regret"][0]["decision_s"] == (2.0, 2.5)


def test_what_is_unknown_is_said() -> None:
    text = regret_text({}, [window(0, -inf, False, (nan, nan))], 3)
    assert "at least +1.0000" in text
    assert text.count("unknown") == 2
    assert "the first 1 of 3 windows" in text


def test_an_interrupted_run_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def stopping(*_: object, **__: object) -> Clairvoyant:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return Clairvoyant(2.0, 1.0, False, None, "")

    monkeypatch.setattr(regret, "clairvoyant", stopping)
    out = tmp_path / "r.json"
    found = CliRunner().invoke(app, ["regret", str(packaged()), "--out", str(out), "--json"])
    assert found.exit_code == 130
    assert "6 windows of at most 10 tasks, at most 60 s" in found.stderr
    assert "1 of 6 windows are done" in found.stderr
    said: dict[str, Any] = json.loads(found.stdout)
    assert (said["windows done"], said["windows in all"]) == (1, 6)
    assert json.loads(out.read_text()) == said
