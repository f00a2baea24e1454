"""``gpu_order="reserve"`` under 1F1B: it draws the paper's schedules and stalls no pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from profiles import examples
from test_engine import F, build, run, starts

from lemix_opt import Cluster, Costs, Instance, Workload, simulate
from lemix_opt.instance import RELEASE_MODES
from lemix_opt.policy import FixedAssignment

WORST = 1.05
"""Makespan over that of ``backward_first`` that is still tolerated."""


def makespan_s(
    order: str, kind: Any, release_s: Any, forward: Any, backward: Any, **kw: Any
) -> float:
    """Run tasks on one node under 1F1B; seconds [T,S] are those of one micro-batch or request."""
    kind, parts = np.asarray(kind), kw["micro_batches"]
    share = np.where(kind == 1, parts, 1)[:, None]
    forward, backward = share * np.asarray(forward), share * np.asarray(backward)
    instance = Instance(
        Cluster(1, forward.shape[1], 1.0),
        Workload(kind, release_s, 1, 1),
        Costs(forward[None], backward[None], 0.0, 0.0, hop_s=kw.pop("hop_s", 0.0)),
        pipeline="1f1b",
        gpu_order=order,
        **kw,
    )
    schedule = simulate(instance, FixedAssignment((0,) * kind.size))
    assert schedule.complete
    return float(schedule.operations.end_s.max())


def uneven(seed: int) -> dict[str, Any]:
    """Draw a pipeline of uneven stages: training tasks alone, several, or among requests."""
    rng = np.random.default_rng(seed)
    stages, parts = int(rng.integers(2, 7)), round(2 ** rng.uniform(1, 6))
    forward = rng.uniform(1, 10, stages)
    backward = forward * (2.0 if rng.random() < 0.5 else rng.uniform(1, 3, stages))
    if rng.random() < 0.3:
        forward, backward = np.round(forward), np.round(backward)
    training = 1 if rng.random() < 0.4 else int(rng.integers(2, 5))
    requests = 0 if rng.random() < 0.5 else int(rng.integers(1, 40))
    tasks = training + requests
    kind = np.repeat([1, 0], [training, requests])
    span_s = training * parts * (forward + backward).max()
    spread = 0.5 * (rng.random() < 0.5)
    release_s = rng.uniform(0, span_s, tasks) * np.where(kind == 1, spread, 1)
    order = np.lexsort((np.arange(tasks), release_s))
    scale = rng.uniform(0.5, 2, (tasks, 1)) if rng.random() < 0.5 else np.ones((tasks, 1))
    return {
        "kind": kind[order],
        "release_s": release_s[order],
        "forward": forward * scale,
        "backward": backward * scale,
        "micro_batches": parts,
        "hop_s": 0.0 if rng.random() < 0.5 else float(rng.uniform(0, 3)),
        "release_mode": RELEASE_MODES[rng.integers(3)],
    }


@pytest.mark.parametrize(
    ("forward", "backward", "parts", "expected"),
    [((3, 2), (6, 4), 32, 291.0), ((6, 9, 9, 8), (12, 18, 18, 16), 64, 1794.0)],
)
def test_one_task_does_not_wait_for_itself(
    forward: Any, backward: Any, parts: int, expected: float
) -> None:
    found = makespan_s("reserve", [1], [0.0], [forward], [backward], micro_batches=parts)
    assert found == expected


def test_no_uneven_pipeline_stalls() -> None:
    ratios = np.array(
        [
            makespan_s("reserve", **uneven(s)) / makespan_s("backward_first", **uneven(s))
            for s in range(examples(200))
        ]
    )
    assert np.flatnonzero(ratios > WORST).tolist() == []


def second_stage_s(parts: int, order: str = "reserve") -> float:
    """Return when a request released at 2.5 s starts on stage 1 beside a training task of 1F1B.

    Three stages; micro-batches of 1 s forward and 2 s back, the request 1.5 s. Stage 1 owes
    backwards at 5 and 8 s; the request is there at 4 s, or at 4.5 behind a third micro-batch.
    """
    seconds = {"forward": [1.0 * parts, 1.5], "backward": [2.0 * parts, 0.0]}
    rules: dict[str, Any] = {"pipeline": "1f1b", "micro_batches": parts, "gpu_order": order}
    return starts(run(build([1, 0], [0.0, 2.5], stages=3, **seconds, **rules)))[1, F, 1]


def test_a_request_waits_until_it_is_late_by_two_forwards() -> None:
    # It may be held back until 4 + 2 · 1.5 s: for the first backward, but not for the second.
    assert second_stage_s(2) == 7.0
    assert second_stage_s(2, "backward_first") == 4.0


def test_no_request_waits_where_1f1b_limits_the_task() -> None:
    # With three micro-batches stage 1 may hold two of them at most.
    assert second_stage_s(3) == second_stage_s(3, "backward_first") == 4.5
