"""The schedules drawn in the LeMix paper's repository, rebuilt by the engine.

Only placements, lengths and arrivals are taken from the drawings; every start has to follow.
`docs/drawn_schedules.md` explains the ones that do not.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from measured_data import DATA

from lemix_opt import Assign, Cluster, Costs, Defer, Event, Instance, Workload, simulate, validate
from lemix_opt.instance import GPU_ORDERS
from lemix_opt.schedule import FORWARD

DRAWN = DATA.parent / "reference" / "drawn_schedules.json"
pytestmark = pytest.mark.skipif(
    not DRAWN.is_file(), reason="drawn_schedules.json is not in ../shared/reference"
)
SEPARATE, MIX = "separate_opportunity", "mix_opportunity"
DRAWINGS = [
    *(f"{kind}{mode}:{side}" for kind in (SEPARATE, MIX) for mode in ("", "_gpipe", "_1f1b")
      for side in ("left", "right")),
    f"{SEPARATE}_generation",
    f"{MIX}_generation",
    "lemix_consolidation:top",
    "lemix_consolidation:bottom",
]  # fmt: skip
STAGES = 3
KINDS = ("forward", "backward")
Key = tuple[str, str, int, int]

INCONSISTENT = {
    # Node 1: boxes of 3' are drawn 1/6 too short, so that all behind them comes 1/6 early.
    ("Node 1", "3'", "backward", 1, 1): (200, 201),
    ("Node 1", "3'", "backward", 1, 2): (232, 233),
    ("Node 1", "3'", "backward", 2, 2): (216, 217),
    ("Node 1", "3'", "backward", 3, 2): (200, 201),
    ("Node 1", "8", "forward", 3, 1): (216, 217),
    ("Node 1", "10", "forward", 2, 1): (232, 233),
    ("Node 1", "10", "forward", 3, 1): (250, 251),
    ("Node 1", "12", "forward", 2, 1): (250, 251),
    ("Node 1", "12", "forward", 3, 1): (268, 269),
    # Node 2: 11 is drawn 1/6 too short on stages 1 and 2.
    ("Node 2", "11", "forward", 2, 1): (240, 241),
    ("Node 2", "11", "forward", 3, 1): (260, 262),
}
"""Drawn and computed starts in sixths, all in ``mix_opportunity_1f1b:right``."""


@lru_cache(maxsize=1)
def drawings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DRAWN.read_text())
    return found


def sixths(time: float) -> int:
    """Return a drawn time on the grid of 1/6, of which the grid of 1/2 is part."""
    whole = round(6 * time)
    assert abs(6 * time - whole) < 0.01
    return whole


class InTurn:
    """All on one node; an iteration of generation begins when the one before it has ended."""

    observes = ("end",)

    def __init__(self, follows: dict[int, int]) -> None:
        self.follows = follows

    def start(self, instance: Instance, rng: np.random.Generator) -> set[int]:
        return set()

    def decide(self, state: set[int], now_s: float, task: int) -> Assign | Defer:
        if self.follows.get(task, task) in state or task not in self.follows:
            return Assign(0)
        return Defer("next_inference_done")

    def observe(self, state: set[int], event: Event) -> None:
        if event.phase == FORWARD and event.stage == STAGES - 1:
            state.add(event.task)


def rebuild(panel: dict[str, Any], tasks: list[dict[str, Any]], generates: bool) -> Any:
    """Return the names of a node's tasks in order of its queue, its instance and its policy.

    Inference arrives when it starts on stage 1, training with what is queued ahead of it.
    """
    begin: dict[str, float] = {}
    for row in panel["operations"]:
        if row["stage"] == 1 and row["kind"] == "forward":
            begin[row["task"]] = min(row["start"], begin.get(row["task"], np.inf))
    names = sorted(begin, key=lambda name: begin[name])
    known = {task["task"]: task for task in tasks if task["node"] == panel["name"]}
    training = [known[name]["phase"] == "training" for name in names]
    parts = max(row.get("micro_batch", 1) for row in panel["operations"])
    requests = [i for i, trains in enumerate(training) if not trains]
    follows = dict(zip(requests[1:], requests, strict=False)) if generates else {}
    release, latest = [], 0
    for i, name in enumerate(names):
        if not training[i] and i not in follows:
            latest = max(latest, sixths(begin[name]))
        release.append(latest)
    length = [
        sixths(known[name]["forward_length"]) * (parts if trains else 1)
        for name, trains in zip(names, training, strict=True)
    ]
    seconds = np.repeat(np.array(length, dtype=float)[None, :, None], STAGES, axis=2)
    rules: dict[str, Any] = {"release_mode": "async"}
    if panel["mode"] in ("gpipe", "1f1b"):
        rules = {"release_mode": "sync", "pipeline": panel["mode"], "micro_batches": parts}
    workload = Workload(np.array(training, dtype=int), release, 1, 1)
    instance = Instance(
        Cluster(1, STAGES, 1.0), workload, Costs(seconds, seconds, 0.0, 0.0), **rules
    )
    return names, instance, InTurn(follows)


def missed(drawing: str, gpu_order: str = "reserve") -> tuple[dict[Any, tuple[int, int]], int]:
    """Return drawn and computed starts where they differ, in sixths, and how many are drawn."""
    found, drawn = {}, 0
    for panel in drawings()[drawing]["nodes"]:
        names, instance, policy = rebuild(
            panel, drawings()[drawing]["tasks"], drawing.endswith("generation")
        )
        instance = replace(instance, gpu_order=gpu_order)
        schedule = simulate(instance, policy)
        assert validate(instance, schedule) == []
        o = schedule.operations
        columns = (o.task, o.phase, o.stage, o.micro_batch, o.start_s)
        starts = {
            (names[t], KINDS[p], s + 1, m + 1): x
            for t, p, s, m, x in zip(*(c.tolist() for c in columns), strict=True)
        }
        rows = panel["operations"]
        assert len(starts) == len(rows)
        drawn += len(rows)
        for row in rows:
            key = (row["task"], row["kind"], row["stage"], row.get("micro_batch", 1))
            if starts[key] != sixths(row["start"]):
                found[panel["name"], *key] = (sixths(row["start"]), round(starts[key]))
    return found, drawn


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_every_drawn_start_is_computed_but_for_the_ones_explained(drawing: str) -> None:
    found, _ = missed(drawing)
    assert found == (INCONSISTENT if drawing == "mix_opportunity_1f1b:right" else {})


def test_all_drawings_are_rebuilt() -> None:
    assert sorted(DRAWINGS) == sorted(set(drawings()) - {"about"})
    assert sum(len(drawings()[name]["nodes"]) for name in DRAWINGS) == 28
    assert sum(missed(name)[1] for name in DRAWINGS) == 846


@pytest.mark.parametrize("order", [o for o in GPU_ORDERS if o != "reserve"])
def test_no_other_order_draws_them(order: str) -> None:
    assert sum(len(missed(name, order)[0]) for name in DRAWINGS) > 100
