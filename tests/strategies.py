"""Random instances and schedules for property tests."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lemix_opt import Cluster, Contention, Costs, Instance, MemoryWait, Workload
from lemix_opt.generation import Generation, IterationCosts
from lemix_opt.instance import (
    GPU_ORDERS,
    GPU_SHARINGS,
    MEMORY_RULES,
    PIPELINES,
    RELEASE_MODES,
)
from lemix_opt.weight_sync import WeightSync


@st.composite
def shared_rules(draw: st.DrawFn) -> dict[str, Any]:
    """Draw waits for memory, the published memory rule, and its threads with contention."""
    rules: dict[str, Any] = {
        "gpu_sharing": draw(st.sampled_from(GPU_SHARINGS)),
        "memory_rule": draw(st.sampled_from(MEMORY_RULES)),
    }
    longest = [0.0, 1.0, 2.5, 10.0] + [inf] * (rules["memory_rule"] == "reserve")
    waits = st.builds(MemoryWait, st.sampled_from([0.0, 0.5, 0.75]), st.sampled_from(longest))
    moves = st.builds(
        MemoryWait, st.just(0.0), st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from([0.5, 2.0, 8.0])
    )
    plain = rules["gpu_sharing"] == "exclusive" and rules["memory_rule"] == "reserve"
    rules["memory_wait"] = draw(st.none() | waits | (moves if plain else waits))
    if rules["gpu_sharing"] == "reference_threads":
        factors = st.sampled_from([1.0, 1.3, 1.5, 2.0])
        rules["contention"] = draw(st.none() | st.builds(Contention, factors, factors))
    if rules["memory_rule"] == "reference_threshold":
        rules["memory_fraction"] = draw(st.sampled_from([0.5, 0.8, 1.0]))
    return rules


@st.composite
def instances(
    draw: st.DrawFn,
    max_tasks: int = 8,
    beyond: bool = False,
    shared: bool | None = False,
    **fixed: Any,
) -> Instance:
    """Build a small instance of any release mode and order, with times off the grid.

    `beyond` adds weight synchronisation and micro-batches; `shared` the rules under which tasks
    wait for memory by the clock or share a GPU (None: at times).
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
        times((classes, stages), 0) if draw(st.booleans()) else 0.0,
    )
    rules: dict[str, Any] = {
        "release_mode": draw(st.sampled_from(RELEASE_MODES)),
        "gpu_order": draw(st.sampled_from(GPU_ORDERS)),
        "fifo": draw(st.booleans()),
    } | fixed
    if beyond and "weight_sync" not in fixed and nodes > 1 and draw(st.booleans()):
        serving = tuple(draw(st.permutations(range(nodes)))[: draw(st.integers(1, nodes - 1))])
        rules["weight_sync"] = WeightSync(
            draw(st.integers(1, 3)), float(rng.integers(1, 5)), serving
        )
    if beyond:
        rules.setdefault("pipeline", draw(st.sampled_from(PIPELINES)))
        if rules["pipeline"] != "plain":
            rules["micro_batches"] = draw(st.integers(1, 4))
    if draw(st.booleans()) if shared is None else shared:
        rules |= draw(shared_rules())
        rules["micro_batches"] = 1
    workload = Workload(kind, np.sort(rng.integers(0, 12, tasks)), 1, rng.integers(1, 9, tasks))
    cluster = Cluster(nodes, stages, 6.0, rng.permutation(np.arange(nodes) % classes))
    return Instance(cluster, workload, costs, **rules)


@st.composite
def generating(draw: st.DrawFn, max_tasks: int = 8, rule: str | None = None) -> Instance:
    """Build a small instance whose requests generate tokens, under memory that is often short."""
    instance = draw(instances(max_tasks, beyond=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    costs, tasks = instance.costs, instance.tasks
    shape = (costs.classes, costs.stages)
    whole = draw(st.booleans())

    def times(low: int, high: int) -> np.ndarray:
        drawn = rng.integers(low, high, shape) if whole else rng.uniform(low, high, shape)
        return drawn.astype(float) + (0.01 if low and not whole else 0)

    def curve() -> tuple[np.ndarray, np.ndarray]:
        knots = np.flatnonzero(rng.random(12) < draw(st.sampled_from([0.0, 0.2, 0.6]))) + 1
        return knots, rng.integers(0, 5, (*shape, knots.size)) / 2

    iteration = IterationCosts(
        times(1, 3),
        times(0, 2) / 4,
        times(0, 2) / 16,
        times(0, 2),
        times(0, 2) / 4,
        rng.integers(0, 3, shape),
        rng.integers(0, 2, (shape[0], shape[1] - 1)) if draw(st.booleans()) else 0.0,
        times(0, 2) / 2,
        times(0, 2) / 8,
        *curve(),
    )
    rule = draw(st.sampled_from(["continuous", "reference"])) if rule is None else rule
    cap = draw(st.integers(1, 4))
    chunk = draw(st.none() | st.integers(cap, 9)) if rule == "continuous" else None
    ahead = rule == "continuous" and draw(st.booleans())
    keep = rule == "continuous" and draw(st.booleans())
    short = {"wait_s": float(draw(st.integers(0, 2))), "clear_tokens": 12, "least_tokens": 3}
    work = instance.workload
    work = replace(work, kind=0 * work.kind) if keep else work
    output = np.where(work.is_training, 0, rng.integers(1, 8, tasks))
    tokens = (work.prompt_tokens + output - 1).max(initial=0)
    # Every request fits on an empty GPU, some only just.
    least = float(tokens * iteration.kv_bytes_per_token.max() + costs.resident_bytes.max())
    memory = max(float(draw(st.sampled_from([9, 16, 40]))), least)
    return replace(
        instance,
        cluster=replace(instance.cluster, memory_bytes=memory),
        workload=replace(work, output_tokens=output),
        costs=replace(costs, iteration=iteration),
        generation=Generation(rule, cap, chunk, ahead=ahead, keep_prefix=keep, **short),
    )


@st.composite
def of_unlike_memory(draw: st.DrawFn, max_tasks: int = 8) -> Instance:
    """Build an instance whose GPUs differ in memory; every task fits on one node at least."""
    instance = draw(instances(max_tasks, beyond=True) | generating(max_tasks, "continuous"))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cluster, fraction = instance.cluster, draw(st.sampled_from([0.5, 1.0]))
    part = rng.choice([0.25, 0.5, 0.75, 1.0], cluster.memory_bytes.shape)
    part[rng.integers(cluster.nodes)] = 1.0
    return replace(
        instance,
        cluster=replace(cluster, memory_bytes=cluster.memory_bytes * part / fraction),
        memory_fraction=fraction,
    )
