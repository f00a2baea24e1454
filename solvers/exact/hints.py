"""A known schedule as CP-SAT's hint."""

from __future__ import annotations

import numpy as np

from lemix_opt.instance import Instance
from lemix_opt.schedule import Schedule
from solvers.exact.constraints.symmetry import renamed
from solvers.exact.data import TickData
from solvers.exact.parts import Parts
from solvers.exact.variables import Model


def hint(
    model: Model, instance: Instance, data: TickData, parts: Parts, schedule: Schedule
) -> None:
    """Hint placements and starts; identical nodes are renamed as symmetry breaking wants them."""
    node = renamed(instance, data, schedule.node) if parts.symmetry else schedule.node
    for i, row in enumerate(model.on):
        for n, literal in enumerate(row):
            model.cp.add_hint(literal, int(node[i] == n))
    o = schedule.operations
    keys = zip(o.task.tolist(), o.phase.tolist(), o.stage.tolist(), strict=True)
    for key, start in zip(keys, np.rint(o.start_s / instance.tick_s).tolist(), strict=True):
        if key in model.start:
            model.cp.add_hint(model.start[key], int(start))
