"""Identical nodes can be renamed: they are opened in order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from solvers.exact.data import TickData
from solvers.exact.variables import Model

_RANKS = 40
"""Tasks whose placement is ordered; the clauses of later ones are long and say little."""


def open_in_order(instance: Instance, data: TickData, model: Model) -> None:
    """Let a task use an identical node only if a task before it uses the node before."""
    for group in identical(instance, data):
        for before, node in pairwise(group):
            earlier: list[Any] = []
            for i in _order(data)[:_RANKS]:
                model.cp.add_bool_or([~model.on[i][node], *earlier])
                earlier.append(model.on[i][before])


def renamed(instance: Instance, data: TickData, node: IntArray) -> IntArray:
    """Return a placement with identical nodes named so that they are opened in order."""
    name = np.arange(instance.cluster.nodes)
    for group in identical(instance, data):
        used = list(dict.fromkeys(int(node[i]) for i in _order(data) if int(node[i]) in group))
        for old, new in zip([*used, *(n for n in group if n not in used)], group, strict=True):
            name[old] = new
    return np.asarray(name[node])


def identical(instance: Instance, data: TickData) -> list[list[int]]:
    """Return groups of nodes that are alike in costs and memory."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for n, kind in enumerate(instance.cluster.node_class.tolist()):
        groups.setdefault((kind, *data.room[n].tolist()), []).append(n)
    return [group for group in groups.values() if len(group) > 1]


def _order(data: TickData) -> list[int]:
    """Tasks by falling work, so that the largest are placed first."""
    work = data.forward.sum(axis=(0, 2)) + data.backward.sum(axis=(0, 2))
    found: list[int] = np.argsort(-work, kind="stable").tolist()
    return found
