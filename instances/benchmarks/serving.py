"""Own suite of training beside serving: three sizes, three loads, synthetic.

The style is that of the instances the exact side is judged on: a closed training loop (A-PP),
log-normal lengths, costs on a grid of 1 ms, memory that binds. No figure is measured.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from instances.benchmarks.benchmark import TICK_S, Benchmark, first_seeds
from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import unknown
from lemix_opt.grid import ticks_up, to_seconds
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.workload import INFERENCE, TRAINING, Workload

SEEDS = 5
"""Seeds per cell."""

SIZES: Mapping[str, tuple[int, int, int]] = {
    "small": (16, 2, 2),
    "medium": (30, 4, 4),
    "large": (100, 4, 4),
}
"""Tasks, nodes and stages."""

LOADS = (0.6, 0.9, 1.2)
"""Loads drawn for: work of a stage / (nodes × seconds that releases are drawn over).

What an instance offers, `lemix_opt.load.offered_load`, is larger: draws do not reach both ends.
"""

TRAINING_SHARE = 0.4
SHORTEST, LONGEST = 20, 1024
"""Tokens of a row."""

_MIB = 2**20
_FIXED_S, _TOKEN_S = 0.004, 0.00012
"""Seconds of a forward over all stages: its fixed part, and that of every token of its batch."""

_TRAINING_BYTES, _INFERENCE_BYTES = 32 * 1024, 8 * 1024
"""Bytes that a token holds on a stage."""


def serving_instance(tasks: int, nodes: int, stages: int, load: float, seed: int) -> Instance:
    """Draw one instance.

    Tokens of a row are log-normal with median 150 and deviation 1 of the logarithm, cut to 20–1024;
    batches have 1, 2 or 4 rows; 40 % of the tasks train; releases are uniform over
    work / (nodes × load). A stage's forward takes 1/S of 4 ms + 0.12 ms per token of the batch, its
    backward twice that, both rounded up to 1 ms. Training holds 32 KiB and inference 8 KiB per
    token and stage, rounded up to MiB; a GPU has room for three mean training tasks, and at least
    for the largest task. The SLO is five times the mean forward of a task through its stages.

    Parameters
    ----------
    tasks, nodes, stages : int
        Size; at least one task of each kind.
    load : float
        Load drawn for, above 0.
    seed : int
        Seed of the draws.
    """
    tasks = whole("tasks", tasks, minimum=2)
    load = float(floats("load", load, (), above=0))
    sizes = (tasks, whole("nodes", nodes, minimum=1), whole("stages", stages, minimum=1))
    rng = np.random.default_rng([*sizes, round(1000 * load), whole("seed", seed, minimum=0)])
    trains = np.zeros(tasks, dtype=bool)
    share = min(max(round(TRAINING_SHARE * tasks), 1), tasks - 1)
    trains[rng.choice(tasks, share, replace=False)] = True
    rows = rng.choice([1, 2, 4], tasks)
    tokens = np.clip(np.rint(rng.lognormal(np.log(150), 1.0, tasks)), SHORTEST, LONGEST)
    exact_s = (_FIXED_S + _TOKEN_S * rows * tokens) / stages
    forward_s = _on_grid(exact_s)
    backward_s = np.where(trains, _on_grid(2 * exact_s), 0.0)
    span_s = float((forward_s + backward_s).sum()) / (nodes * load)
    release = np.sort(rng.integers(0, max(round(span_s / TICK_S), 1), tasks))
    per_token = np.where(trains, _TRAINING_BYTES, _INFERENCE_BYTES)
    held = np.ceil(per_token * rows * tokens / _MIB) * _MIB
    room = max(np.ceil(3 * held[trains].mean() / _MIB) * _MIB, held.max())
    slo_s = float(_on_grid(np.asarray(5 * stages * forward_s.mean())))
    return Instance(
        Cluster(nodes, stages, room),
        Workload(
            np.where(trains, TRAINING, INFERENCE),
            to_seconds(release - release[0], TICK_S),
            rows,
            tokens.astype(np.int64),
            slo_s=np.where(trains, np.inf, slo_s),
        ),
        Costs(
            np.repeat(forward_s[None, :, None], stages, axis=2),
            np.repeat(backward_s[None, :, None], stages, axis=2),
            np.repeat(held[None, :, None], stages, axis=2),
            np.zeros((1, stages)),
        ),
        release_mode="async",
        tick_s=TICK_S,
    )


def serving_objectives(late_penalty_s: float) -> Mapping[str, Objective]:
    """Return the three weightings that train+serve instances are judged by.

    Parameters
    ----------
    late_penalty_s : float
        Seconds charged for a request behind its SLO: four SLOs in this suite, since responses of
        requests count four times.
    """
    return {
        "slo": Objective(inference_response=4, training_response=1, late_penalty_s=late_penalty_s),
        "inference": Objective(inference_response=4, late_penalty_s=late_penalty_s),
        "makespan": Objective(makespan=1),
    }


def serving(
    seeds: int | None = None, *, size: str = "", load: float | None = None
) -> tuple[Benchmark, ...]:
    """Return the suite, or one size or load of it.

    Parameters
    ----------
    seeds : int, optional
        Seeds per cell; five when omitted.
    size : {"small", "medium", "large"}, optional
        All sizes when omitted.
    load : float, optional
        The three of `LOADS` when omitted.

    Raises
    ------
    UnknownNameError
        For an unknown size.
    """
    if size and size not in SIZES:
        raise unknown("size", size, SIZES)
    found = []
    for name in [size] if size else SIZES:
        for part in LOADS if load is None else (load,):
            for seed in first_seeds(seeds, SEEDS):
                instance = serving_instance(*SIZES[name], part, seed)
                slo_s = float(instance.workload.slo_s.min())
                cell = f"{name}-{part:g}"
                objectives = serving_objectives(4 * slo_s)
                name_ = f"serving-{cell}-{seed}"
                found.append(Benchmark(name_, cell, instance, objectives, "synthetic, drawn here"))
    return tuple(found)


def serving_small(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return the cells of 16 tasks on 2 nodes of 2 stages."""
    return serving(seeds, size="small")


def serving_medium(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return the cells of 30 tasks on 4 nodes of 4 stages."""
    return serving(seeds, size="medium")


def serving_large(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return the cells of 100 tasks on 4 nodes of 4 stages."""
    return serving(seeds, size="large")


def _on_grid(seconds: FloatArray) -> FloatArray:
    return to_seconds(ticks_up(seconds, TICK_S), TICK_S)
