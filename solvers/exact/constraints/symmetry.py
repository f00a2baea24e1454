"""Identical nodes can be renamed: they are opened in order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from lemix_opt.instance import Instance
from solvers.exact.data import TickData
from solvers.exact.variables import Model


def open_in_order(instance: Instance, data: TickData, model: Model) -> None:
    """Let a task use an identical node only if an earlier task uses the one before.

    Tasks go by falling work, so that the largest are fixed first.
    """
    order = np.argsort(-data.forward.sum((0, 2)) - data.backward.sum((0, 2)), kind="stable")
    for group in identical(instance, data):
        for before, node in pairwise(group):
            earlier: list[Any] = []
            for i in order.tolist():
                model.cp.add_bool_or([~model.on[i][node], *earlier])
                earlier.append(model.on[i][before])


def identical(instance: Instance, data: TickData) -> list[list[int]]:
    """Return groups of nodes that are alike in costs and memory."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for n, kind in enumerate(instance.cluster.node_class.tolist()):
        groups.setdefault((kind, *data.room[n].tolist()), []).append(n)
    return [group for group in groups.values() if len(group) > 1]
