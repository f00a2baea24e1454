"""Replay files of published placement decisions through the registered `lemix-reference`."""

from __future__ import annotations

import gzip
import heapq
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lemix_opt import Assign, BatchObserved, Cluster, Costs, Event, Instance, Workload
from solvers.registry import POLICIES

NAME = "lemix_decisions.json.gz"


def golden_file() -> Path | None:
    """Find the file beside `$LEMIX_DATA` or in the shared folder next to the project."""
    folders = [Path(__file__).resolve().parents[2] / "shared" / "golden"]
    if "LEMIX_DATA" in os.environ:
        folders.insert(0, Path(os.environ["LEMIX_DATA"]).parent / "golden")
    return next((f / NAME for f in folders if (f / NAME).is_file()), None)


def load_cases(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        cases: list[dict[str, Any]] = json.load(file)["cases"]
    return cases


def expected(case: dict[str, Any], variant: str) -> dict[str, Any]:
    """Follow "same as …" to the decisions meant."""
    found = case[variant]
    while isinstance(found, str):
        found = case[found.removeprefix("same as ")]
    return dict(found)


def build_instance(given: dict[str, Any]) -> Instance:
    tasks = given["tasks"]
    batch = np.array([t["batch"] for t in tasks])
    length = np.array([t["length"] for t in tasks])
    work = (batch * length.astype(float) ** 2)[None, :, None]
    shape = (1, len(tasks), given["stages"])
    costs = Costs(
        np.broadcast_to(given["forward_eta"] * work, shape),
        np.broadcast_to(given["backward_eta"] * work, shape),
        0.0,
        0.0,
    )
    workload = Workload(
        [int(t["train"]) for t in tasks], [t["release"] for t in tasks], batch, length
    )
    cluster = Cluster(given["nodes"], given["stages"], 1.0)
    return Instance(cluster, workload, costs, release_mode="open", gpu_order="task_id")


def _rounds(case: dict[str, Any], variant: str) -> tuple[list[dict[str, Any]], Any]:
    given = case["input"]
    instance = build_instance(given)
    policy: Any = POLICIES.create(
        "lemix-reference",
        variant=variant,
        alpha=given["alpha"],
        beta=given["beta"],
        epsilon=given["epsilon"],
        forward_eta=given["forward_eta"],
        backward_eta=given["backward_eta"],
        prioritization=given["prioritization"],
        slo_threshold_s=given["slo_threshold"],
        retry_gap_s=given["retry_gap"],
        rule=given["kind"],
    )
    state = policy.start(instance, np.random.default_rng(0))
    # Regular releases go first on ties, turned-away ones in their own order.
    queue = [(t["release"], 0, i, i) for i, t in enumerate(given["tasks"])]
    heapq.heapify(queue)
    serial = itertools.count()
    events = []
    while queue:
        now_s, _, _, task = heapq.heappop(queue)
        if given["kind"] == "generate":
            for n, lengths in enumerate(given["node_batches"][task]):
                policy.observe(state, BatchObserved(now_s, n, tuple(lengths)))
        answer = policy.decide(state, now_s, task)
        last = state.last
        placed = isinstance(answer, Assign)
        node = given["tasks"][task].get("forced_node", last.argmax)
        event = {
            "task": task,
            "release": now_s,
            "node": node,
            "argmax": last.argmax,
            "score": last.score,
            "rt": last.rt,
            "II": last.idleness,
            "gap": last.gap,
            "LC": last.consistency,
            "fb": [cell.fb for cell in state.books[node].cells],
            "fe": [cell.fe for cell in state.books[node].cells],
        }
        if given["tasks"][task]["train"]:
            event["bb"] = [cell.bb for cell in state.books[node].cells]
            event["be"] = [cell.be for cell in state.books[node].cells]
        if placed:
            policy.observe(state, Event("assign", now_s, task, node))
        else:
            event["deprioritised"] = True
            heapq.heappush(queue, (answer.at_s, 1, next(serial), task))
        popped = [list(ids) for ids in last.popped]
        if any(popped):
            event["popped"] = popped
        events.append(event)
    return events, state


def replay_case(case: dict[str, Any], variant: str) -> list[dict[str, Any]]:
    """Return the events the registered policy makes of a golden case."""
    return _rounds(case, variant)[0]


def final_of(case: dict[str, Any], variant: str) -> dict[str, Any]:
    """Return the books at the end of a golden case."""
    books = _rounds(case, variant)[1].books
    return {
        "num_tasks": [b.lengths.count for b in books],
        "mean": [b.lengths.mean for b in books],
        "std": [b.lengths.std for b in books],
        "open_training": [list(b.training) for b in books],
    }
