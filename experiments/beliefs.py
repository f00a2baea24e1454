"""What a study's policies and solver believe of costs: medians, or quantiles that allow a risk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.links import Links
from lemix_opt.checks import FloatArray, floats
from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError, InfeasibleError
from lemix_opt.instance import Instance
from lemix_opt.workload import Workload

MIB = 2.0**20

if TYPE_CHECKING:
    from experiments.study import Study

OPTIMIZERS = {
    "gpu": "mixed-precision Adam on the GPU, 16 bytes per parameter",
    "host": "weights and gradients on the GPU, optimizer in host memory, 4 bytes per parameter",
}


@dataclass(frozen=True)
class Beliefs:
    """Predicted costs of a study.

    Parameters
    ----------
    median : Costs
        The predictions themselves, which load, SLO and objective are counted in.
    planned : Costs
        What is planned with; the same unless a quantile is asked for.
    held_bytes : ndarray, shape (T, S)
        What tasks really hold.
    optimizer : str
        Where the optimizer's state lives, out of `OPTIMIZERS`.
    cluster : Cluster
        The GPUs.
    said : str
        What a table says of memory.
    """

    median: Costs
    planned: Costs
    held_bytes: FloatArray
    optimizer: str
    cluster: Cluster
    said: str


def believe(study: Study, work: Workload, source: Any, links: Links) -> Beliefs:
    """Predict the costs of a study, and draw what its tasks really hold if a risk is named.

    Raises
    ------
    FieldError
        For a risk or quantile out of its range, or with too few residuals behind it.
    InfeasibleError
        If a task fits on no GPU.
    """
    risk = None if study.risk is None else _risk(study.risk)
    median, optimizer, cluster = _median(study, work, source, links)
    planned = median
    if risk is not None or study.time_quantile is not None:
        planned = _estimate(
            study,
            work,
            source,
            links,
            optimizer,
            time_quantile=study.time_quantile,
            memory_quantile=None if risk is None else 1 - risk,
        )
        free = np.min(cluster.memory_bytes, axis=0) - median.resident_bytes[0]
        # A task believed to need more than an empty GPU is planned to have one to itself.
        planned = replace(planned, held_bytes=np.minimum(planned.held_bytes, free))
    said = f"{OPTIMIZERS[optimizer]}; "
    if study.room is not None:
        said += f"{cluster.memory_bytes[0, 0] / 2**30:.1f} GiB a GPU; "
    if risk is None:
        held = median.held_bytes[0]
        return Beliefs(median, planned, held, optimizer, cluster, said + _AS_PREDICTED)
    from predictors.memory_spread import load_memory_spread

    spread = load_memory_spread()
    drawn = spread.draw(work.tasks, np.random.default_rng([study.seed, 2]))
    held = median.held_bytes[0] * drawn[:, None]
    said += (
        f"planned with bytes that a task exceeds with probability {risk:g}; actual bytes drawn "
        f"from {len(spread.residuals)} held-out residuals ({spread.source}), so synthetic"
    )
    return Beliefs(median, planned, held, optimizer, cluster, said)


_AS_PREDICTED = "actual bytes taken as predicted"


def _risk(risk: float) -> float:
    found = float(floats("risk", risk, (), above=0, maximum=1))
    if found == 1:
        raise FieldError("1", where="risk", expected="a probability below 1")
    return found


def _median(study: Study, work: Workload, source: Any, links: Links) -> tuple[Costs, str, Cluster]:
    """Predict with the optimizer on the GPU where that fits, else in host memory."""
    for optimizer in OPTIMIZERS:
        costs = _estimate(study, work, source, links, optimizer)
        memory = np.full((study.nodes, study.stages), _memory(study, work, costs, source))
        cluster = Cluster(study.nodes, study.stages, memory)
        try:
            Instance(cluster, work, costs)
        except InfeasibleError as error:
            refused = error
            continue
        return costs, optimizer, cluster
    raise refused


def _memory(study: Study, work: Workload, costs: Costs, source: Any) -> float:
    if study.room is None:
        return float(source.memory_bytes)
    room = float(floats("room", study.room, (), above=0))
    held = costs.held_bytes[0]
    if not work.is_training.any():
        raise FieldError("no training task", where="room", expected="some, which it is counted in")
    mean = float(np.max(np.mean(held[work.is_training], axis=0)))
    needed = float(np.max(costs.resident_bytes)) + max(room * mean, float(np.max(held)))
    # Whole MiB, as the predicted bytes are, so that the exact model rounds nothing.
    return float(np.ceil(needed / MIB) * MIB)


def _estimate(
    study: Study, work: Workload, source: Any, links: Links, optimizer: str, **quantiles: Any
) -> Costs:
    from predictors import estimate_costs

    return estimate_costs(
        work,
        source.time_model,
        source.shape,
        stages=study.stages,
        optimizer=optimizer,
        backward_ratio=study.backward_ratio,
        tick_s=study.tick_s,
        hop_model=links.hop_model,
        link=links.named,
        **quantiles,
    )
