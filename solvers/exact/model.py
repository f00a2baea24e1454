"""The exact model, put together from its parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lemix_opt.instance import Instance
from solvers.exact.chains import chains
from solvers.exact.constraints.gpus import area, one_at_a_time
from solvers.exact.constraints.memory import memory
from solvers.exact.constraints.order import one_order
from solvers.exact.constraints.releases import distances, releases
from solvers.exact.constraints.symmetry import open_in_order
from solvers.exact.data import TickData
from solvers.exact.heads import closed_loop
from solvers.exact.parts import Parts
from solvers.exact.rest import NOTHING, Rest
from solvers.exact.variables import Model, declare


def build(
    instance: Instance,
    data: TickData,
    parts: Parts,
    *,
    horizon: int | None,
    check: Callable[[], None],
    rest: Rest = NOTHING,
) -> Model:
    """State placement, chains, releases, GPUs, memory and the FIFO option.

    Parameters
    ----------
    instance, data
        The problem and its ticks.
    parts : Parts
        What to state beyond the problem itself.
    horizon : int, optional
        Tick by which all tasks are to end, below the one of `data`.
    check : callable
        Called at times; what it raises ends the building.
    rest : Rest
        Work beside the tasks that stays as it is. Parts that look at the whole cluster (`area`,
        `energy`, `symmetry`) do not know of it, so that they are of use without it only.
    """
    chain = chains(instance, data, rest.node)
    first = np.full(instance.tasks, -1, dtype=np.int64)
    loop = closed_loop(instance, data, chain, memory=parts.loop)
    if parts.heads:
        first = data.release.copy()
        trains = list(loop.tasks)
        first[trains] = np.maximum(first[trains], loop.head)
    end = data.horizon if horizon is None else min(horizon, data.horizon)
    model = declare(instance, data, chain, first.tolist(), end, check, rest)
    releases(instance, data, model)
    if parts.loop:
        distances(model, loop)
    if instance.fifo:
        one_order(instance, model, transitive=parts.order)
    one_at_a_time(model)
    if parts.area:
        area(model, instance.cluster.nodes, instance.cluster.stages)
    memory(instance, data, model, energy=parts.energy)
    check()
    if parts.symmetry:
        open_in_order(instance, data, model)
    return model
