"""`lemix-reference` against decisions made by the published functions themselves."""

from __future__ import annotations

import math
from typing import Any

import golden
import pytest

from solvers.online.length_statistics import LengthStatistics

FILE = golden.golden_file()
needs_file = pytest.mark.skipif(
    FILE is None, reason=f"{golden.NAME} is neither beside $LEMIX_DATA nor in ../shared/golden"
)
VARIANTS = ("as_is", "dealiased", "pure")


def differences(case: dict[str, Any], variant: str) -> list[str]:
    wanted = golden.expected(case, variant)
    found = golden.replay_case(case, variant)
    if len(found) != len(wanted["events"]):
        return [f"case {case['id']}: {len(found)} events"]
    for i, (ours, theirs) in enumerate(zip(found, wanted["events"], strict=True)):
        theirs = {k: v for k, v in theirs.items() if k != "all_nodes"}
        if set(ours) != set(theirs):
            return [f"case {case['id']} event {i}: fields {set(ours) ^ set(theirs)}"]
        for name, value in theirs.items():
            # LC and score pass through exp, whose last bit depends on processor and library.
            if name == "LC":
                pairs = zip(ours[name], value, strict=True)
                same = all(abs(a - b) <= 4 * math.ulp(b) for a, b in pairs)
            elif name == "score":
                same = same_scores(case["input"], theirs, ours[name])
            else:
                same = ours[name] == value
            if not same:
                return [f"case {case['id']} event {i} {name}: {ours[name]} for {value}"]
    final = golden.final_of(case, variant)
    return [] if final == wanted["final"] else [f"case {case['id']}: final {final}"]


def same_scores(given: dict[str, Any], theirs: dict[str, Any], ours: list[float]) -> bool:
    """Whether scores are within 4 ulp, beside what 4 ulp of LC make of (IP + β·LC) / (α·RT)."""
    rows = zip(ours, theirs["score"], theirs["LC"], theirs["rt"], strict=True)
    return all(
        abs(a - b) <= 4 * math.ulp(b) + given["beta"] * 4 * math.ulp(lc) / (given["alpha"] * rt)
        for a, b, lc, rt in rows
    )


@needs_file
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_golden_decision_is_matched(variant: str) -> None:
    assert FILE is not None
    cases = golden.load_cases(FILE)
    assert {c["group"] for c in cases} == {"argmax", "forced", "priority", "generate", "default"}
    assert [d for case in cases for d in differences(case, variant)] == []


@needs_file
def test_a_broken_term_of_the_score_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FILE is not None
    monkeypatch.setattr(LengthStatistics, "density", lambda self, tokens: 0.0)
    cases = [c for c in golden.load_cases(FILE) if c["group"] == "default"]
    assert any(differences(case, "as_is") for case in cases)


def small_case(**changes: Any) -> dict[str, Any]:
    given = {
        "kind": "prefill",
        "nodes": 2,
        "stages": 2,
        "alpha": 0.15,
        "beta": 0.05,
        "epsilon": 0.2,
        "forward_eta": 0.01,
        "backward_eta": 0.02,
        "prioritization": False,
        "slo_threshold": 1.0,
        "retry_gap": 0.5,
        "tasks": [
            {"batch": 1, "length": 10, "train": True, "release": 0.0},
            {"batch": 2, "length": 10, "train": False, "release": 0.5},
        ],
    }
    return {"id": 0, "input": given | changes}


def test_two_tasks_worked_out_by_hand() -> None:
    first, second = golden.replay_case(small_case(), "pure")
    # One square of 10 tokens: forward 1 s, backward 2 s on every stage; the published stage loop
    # starts all stages at once on an empty node.
    assert first["fe"] == [1.0, 1.0]
    assert (first["bb"], first["be"]) == ([3.0, 1.0], [5.0, 3.0])
    assert first["score"] == [-0.2 / 0.15] * 2
    assert first["node"] == 0
    # On node 0 the two-row task ends its first stage at 3 and just fits; its second stage waits
    # for the backward that runs there from 1 to 3.
    assert second["fb"] == [1.0, 3.0]
    assert second["rt"] == [4.5, 2.0]
    assert second["node"] == 0


def test_training_beyond_five_units_is_turned_away_until_inference_is_over() -> None:
    tasks = [
        {"batch": 1, "length": 10, "train": True, "release": 0.0},
        {"batch": 1, "length": 10, "train": False, "release": 1.2},
    ]
    case = small_case(tasks=tasks, prioritization=True, slo_threshold=0.1)
    events = golden.replay_case(case, "as_is")
    assert [e["task"] for e in events] == [0, 0, 0, 1, 0]
    assert [e.get("deprioritised", False) for e in events] == [True, True, True, False, False]
