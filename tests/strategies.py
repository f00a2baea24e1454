"""Random instances and schedules for property tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.instance import GPU_ORDERS, PIPELINES, RELEASE_MODES
from lemix_opt.weight_sync import WeightSync


@st.composite
def instances(draw: st.DrawFn, max_tasks: int = 8, beyond: bool = False, **fixed: Any) -> Instance:
    """Build a small instance of any release mode and order, with times off the grid.

    `beyond` adds the rules that only the engine executes.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tasks = draw(st.integers(0, max_tasks))
    nodes, stages = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    classes = draw(st.integers(1, nodes))
    shape = (classes, tasks, stages)
    kind = rng.integers(0, 2, tasks)
    # Few distinct values, so that ties and exact fits are common.
    whole = draw(st.booleans())

    def times(size: tuple[int, ...], low: int) -> np.ndarray:
        if whole:
            return rng.integers(low, 5, size).astype(float)
        return rng.uniform(low + 0.01, 5, size)

    costs = Costs(
        times(shape, 1),
        times(shape, 0),
        rng.integers(0, 5, shape),
        rng.integers(0, 2, (classes, stages)),
        times((classes, stages), 0) if draw(st.booleans()) else 0.0,
        times((classes, tasks, stages - 1), 0) if draw(st.booleans()) else 0.0,
    )
    rules: dict[str, Any] = {
        "release_mode": draw(st.sampled_from(RELEASE_MODES)),
        "gpu_order": draw(st.sampled_from(GPU_ORDERS)),
        "fifo": draw(st.booleans()),
    } | fixed
    if beyond and nodes > 1 and draw(st.booleans()):
        serving = tuple(draw(st.permutations(range(nodes)))[: draw(st.integers(1, nodes - 1))])
        rules["weight_sync"] = WeightSync(
            draw(st.integers(1, 3)), float(rng.integers(1, 5)), serving
        )
    if beyond:
        rules.setdefault("pipeline", draw(st.sampled_from(PIPELINES)))
        if rules["pipeline"] != "plain":
            rules["micro_batches"] = draw(st.integers(1, 4))
    workload = Workload(kind, np.sort(rng.integers(0, 12, tasks)), 1, rng.integers(1, 9, tasks))
    cluster = Cluster(nodes, stages, 6.0, rng.permutation(np.arange(nodes) % classes))
    return Instance(cluster, workload, costs, **rules)
