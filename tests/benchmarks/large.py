"""Large synthetic instances for benchmarks, made by repeating a small one in time."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.study import Study, build
from lemix_opt import Costs, Instance, Workload

SMALL = 2_000


def repeated(
    tasks: int, nodes: int = 4, stages: int = 4, load: float = 0.9, **rules: Any
) -> Instance:
    """Half training, Poisson, memory reservations on; ``load`` of the cluster's GPU time."""
    study = Study(tasks=SMALL, nodes=nodes, stages=stages, training_share=0.5, load=load)
    small = build(study).trace.instance
    work, costs = small.workload, small.costs
    times = -(-tasks // SMALL)
    # A tick in between, so that rounding never turns two releases round.
    span_s = float(work.release_s.max()) + small.tick_s
    release_s = np.concatenate([work.release_s + k * span_s for k in range(times)])[:tasks]

    def tiled(column: Any, axis: int = 0) -> Any:
        return np.concatenate([column] * times, axis=axis).take(range(tasks), axis=axis)

    return Instance(
        small.cluster,
        Workload(
            tiled(work.kind),
            release_s,
            tiled(work.batch),
            tiled(work.prompt_tokens),
            slo_s=tiled(work.slo_s),
        ),
        Costs(
            tiled(costs.forward_s, 1),
            tiled(costs.backward_s, 1),
            tiled(costs.held_bytes, 1),
            costs.resident_bytes,
            costs.update_s,
            tiled(costs.hop_s, 1),
        ),
        **rules,
    )
