"""Tables say which rule is broken, why tasks are not done, and what no bound compares with."""

from __future__ import annotations

from dataclasses import replace

from test_end_reasons import requests
from test_engine import run
from test_validation import valid
from test_validation_events import given_way

from experiments.comparison import compare
from experiments.notes import NOTES, broken_text, notes_lines, notes_of
from experiments.report import report_text
from experiments.study import Study
from experiments.windows import ExactSettings
from lemix_opt.beyond import GAVE_WAY
from lemix_opt.validation import validate


def test_every_rule_is_named_once_with_its_first_message() -> None:
    instance, schedule = valid()
    wrong = replace(schedule, release_s=schedule.release_s + 0.5)
    text = broken_text(validate(instance, wrong))
    assert text.startswith("stored_release: task 0 has the stored release 0.5 s, expected 0 s")
    assert text.endswith("(2 more)")
    assert broken_text([]) == ""


def test_what_is_not_done_is_no_broken_rule() -> None:
    instance = requests([900, 100], [10, 10])
    schedule = run(instance)
    said = notes_of(instance, schedule, validate(instance, schedule))
    assert (said["broken"], set(said)) == ("", set(NOTES))
    assert said["not_done"].startswith("task 0 needs 909 tokens")
    assert notes_lines([{"name": "jsq", **said}])[0].startswith("jsq: not done: task 0 needs 909")


def test_a_place_given_up_is_said() -> None:
    said = notes_of(*given_way(), [])
    assert notes_lines([{"name": "a", **said}, {"name": "a", **said}, {"name": "b"}]) == [
        f"a: outside the exact model: {GAVE_WAY}"
    ]


def test_a_comparison_says_it_and_gives_no_gap() -> None:
    study = Study(tasks=24, nodes=1, stages=2, load=2.0, training_share=0.5, slo_units=1.0, seed=1)
    exact = ExactSettings(time_limit_s=2)
    found = compare(study, ("jsq", "lemix-reference"), exact, window=8)
    row = found.run[1]
    assert (row["rules_broken"], row["broken"], row["not_done"]) == (0, "", "")
    assert row["outside"] == f"outside the exact model: {GAVE_WAY}"
    assert found.run[0]["outside"] == ""
    outside = [r for r in found.windows if r["outside"]]
    assert outside
    for r in outside:
        assert r["name"] == "lemix-reference"
        assert (r["in_model"], r["gap_to_bound"], r["above_optimum"]) == (False, None, None)
    text = report_text(found)
    assert f"lemix-reference: {row['outside']}\n" in text
    assert f"lemix-reference: window {outside[0]['window']}: {row['outside']}" in text
