"""FIFO: all stages of a node start forwards in one order."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from lemix_opt.instance import Instance
from lemix_opt.schedule import FORWARD
from solvers.exact.readout import Key
from solvers.exact.variables import Model

_TRANSITIVE = 50
"""Tasks up to which transitivity is stated: there are T³/3 clauses."""


def one_order(instance: Instance, model: Model, *, transitive: bool) -> None:
    """Order every pair of tasks by one literal that all stages share.

    Parameters
    ----------
    transitive : bool
        Whether to state that the literals form one order over all tasks. That of first starts is
        one, also between tasks of different nodes, whose literals bind nothing else. On a single
        node also rows: a forward starts behind all forwards that are ordered before it.
    """
    cp, stages = model.cp, range(instance.cluster.stages)
    ahead: dict[tuple[int, int], Any] = {}
    for i, j in combinations(range(instance.tasks), 2):
        model.check()
        ahead[i, j] = cp.new_bool_var(f"ahead{i},{j}")
        ahead[j, i] = ~ahead[i, j]
        for n in range(instance.cluster.nodes):
            together = [] if instance.cluster.nodes == 1 else [model.on[i][n], model.on[j][n]]
            for s in stages:
                a, b = (i, FORWARD, s), (j, FORWARD, s)
                cp.add(model.start[b] >= model.end[a]).only_enforce_if([*together, ahead[i, j]])
                cp.add(model.start[a] >= model.end[b]).only_enforce_if([*together, ahead[j, i]])
    _beside(instance, model)
    if transitive and instance.tasks <= _TRANSITIVE:
        for i, j, k in combinations(range(instance.tasks), 3):
            cp.add_bool_or([~ahead[i, j], ~ahead[j, k], ahead[i, k]])
            cp.add_bool_or([ahead[i, j], ahead[j, k], ~ahead[i, k]])
    if transitive and instance.cluster.nodes == 1:
        model.ahead = ahead
        for s in stages:
            keys = _forwards(model, s)
            least = min((model.head[key] for key in keys), default=0)
            for key in keys:
                cp.add(model.start[key] >= least + _work(model, s, before=key[0]))


def _beside(instance: Instance, model: Model) -> None:
    """Keep every task in one order with the forwards that stay as they are."""
    for n, fixed in model.rest.forwards.items():
        for i in range(instance.tasks):
            for spans in fixed:
                first = model.cp.new_bool_var("")
                for s, (begin, end) in enumerate(spans):
                    key = (i, FORWARD, s)
                    ahead = model.cp.add(model.end[key] <= begin)
                    ahead.only_enforce_if([model.on[i][n], first])
                    behind = model.cp.add(model.start[key] >= end)
                    behind.only_enforce_if([model.on[i][n], ~first])


def rows_to_end(instance: Instance, model: Model, end: Any) -> None:
    """Bound the makespan by what follows every forward on its GPU, where one order is stated.

    Parameters
    ----------
    end : expression
        The makespan.
    """
    for s in range(instance.cluster.stages) if model.ahead else ():
        keys = _forwards(model, s)
        least = min(int(model.chain[i].behind[s]) for i, _, _ in keys)
        for key in keys:
            model.cp.add(end >= model.end[key] + _work(model, s, behind=key[0]) + least)


def _forwards(model: Model, s: int) -> list[Key]:
    return [(i, FORWARD, s) for i in range(len(model.chain))]


def _work(model: Model, s: int, *, before: int = -1, behind: int = -1) -> Any:
    """Ticks of the forwards on a stage that are ordered before or behind a task."""
    pairs = ((i, j) for i, j in model.ahead if j == before or i == behind)
    return sum(
        int(model.chain[i if before >= 0 else j].length[0, s]) * model.ahead[i, j] for i, j in pairs
    )
