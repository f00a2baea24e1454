"""Variables of the exact model: placements, shared starts, optional runs per node, windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.exact.chains import Chain
from solvers.exact.data import TickData
from solvers.exact.readout import Key
from solvers.exact.rest import NOTHING, Rest


@dataclass
class Model:
    """A CP-SAT model with the variables its solution is read from.

    Parameters
    ----------
    cp : CpModel
        What CP-SAT solves.
    chain : sequence of Chain
        Operations of every task.
    on : list of list of literal
        Whether task i runs on node n.
    horizon : int
        Tick by which all tasks end.
    check : callable
        To be called in loops that may take long.
    rest : Rest
        What stays as it is.
    head : dict of (task, phase, stage) to int
        Earliest starts.
    start, end : dict of (task, phase, stage) to expression
        Ticks of forwards and backwards; an update follows its backward directly.
    runs : dict of (node, stage) to list of (key, interval)
        Optional intervals of a GPU, updates included.
    done : list of expression
        Last end of every task.
    makespan : expression, optional
        Last end of all tasks, once something needs it.
    ahead : dict of (task, task) to literal
        One order of all tasks, where it is stated and binds all.
    """

    cp: cp_model.CpModel
    chain: Sequence[Chain]
    on: list[list[Any]]
    horizon: int
    check: Callable[[], None]
    rest: Rest = NOTHING
    head: dict[Key, int] = field(default_factory=dict)
    start: dict[Key, Any] = field(default_factory=dict)
    end: dict[Key, Any] = field(default_factory=dict)
    runs: dict[tuple[int, int], list[tuple[Key, Any]]] = field(default_factory=dict)
    done: list[Any] = field(default_factory=list)
    makespan: Any = None
    ahead: dict[tuple[int, int], Any] = field(default_factory=dict)

    def read(self, value: Callable[[Any], int]) -> tuple[IntArray, dict[Key, int]]:
        """Return nodes and starts of a solution, of which `value` tells variables' values."""
        node = [[bool(value(literal)) for literal in row].index(True) for row in self.on]
        start = {key: value(variable) for key, variable in self.start.items()}
        return np.array(node, dtype=np.int64), start


def declare(
    instance: Instance,
    data: TickData,
    chain: Sequence[Chain],
    first: Sequence[int],
    horizon: int,
    check: Callable[[], None],
    rest: Rest = NOTHING,
) -> Model:
    """State placements and chains; tasks first start at `first` at the earliest.

    What holds on every node a task may run on is stated without a condition, so that the bound does
    not depend on the placement.

    Parameters
    ----------
    instance, data, chain
        The problem, its ticks and its chains.
    first : sequence of int
        Earliest first start of every task; negative: no windows, every start is free.
    horizon : int
        Latest end of all tasks.
    check : callable
        Called for every task; what it raises ends the building.
    rest : Rest
        Kept by the model, for the parts of it that need to know.
    """
    cp = cp_model.CpModel()
    nodes, stages = range(instance.cluster.nodes), range(instance.cluster.stages)
    on = [[cp.new_bool_var(f"on{i},{n}") for n in nodes] for i in range(instance.tasks)]
    model = Model(cp, chain, on, horizon, check, rest)
    model.runs = {(n, s): [] for n in nodes for s in stages}
    fits = np.all(data.held <= data.room[:, None, :], axis=2)
    for i in range(instance.tasks):
        check()
        cp.add_exactly_one(on[i])
        cp.add_bool_and(~on[i][n] for n in nodes if not fits[n, i])
        if i in rest.node:
            cp.add(on[i][rest.node[i]] == 1)
        _operations(model, i, int(first[i]))
    return model


def _operations(model: Model, i: int, first: int) -> None:
    cp, chain, on = model.cp, model.chain[i], model.on[i]
    before, after = chain.before, chain.after
    lasts: list[Any] = []
    ready: Any = None
    for k, (phase, s) in enumerate(chain.steps):
        length, gap, tail = chain.length[:, k], chain.gap[:, k], chain.tail[:, k]
        key = (i, phase, s)
        head = max(first, 0) + int(before[k])
        latest = model.horizon - int(after[k])
        if first < 0:
            head, latest = 0, model.horizon
        model.head[key] = head
        # An empty window leaves the model infeasible rather than the variable undefined.
        start = cp.new_int_var(min(head, max(latest, 0)), max(latest, 0), f"start{i},{phase},{s}")
        if head > latest:
            cp.add_bool_or([])
        if ready is not None:
            _no_sooner(model, i, start, ready, gap.tolist())
        end = _after(model, i, start, length.tolist())
        model.start[key], model.end[key] = start, end
        for n, size in zip(chain.nodes, (length + tail).tolist(), strict=True):
            # Operations without length take no room.
            if size:
                run = cp.new_optional_fixed_size_interval_var(start, size, on[n], "")
                model.runs[n, s].append((key, run))
        if np.any(tail) or k == len(chain.steps) - 1:
            lasts.append(_after(model, i, end, tail.tolist()))
        ready = end
    if len(lasts) == 1:
        model.done.append(lasts[0])
        return
    done = cp.new_int_var(0, model.horizon, f"done{i}")
    for last in lasts:
        cp.add(done >= last)
    model.done.append(done)


def _after(model: Model, i: int, start: Any, lengths: list[int]) -> Any:
    """Return start + length, a variable only where nodes differ in length."""
    least = min(lengths)
    if max(lengths) == least:
        return start + least
    end = model.cp.new_int_var(0, model.horizon, "")
    model.cp.add(end >= start + least)
    for node, length in zip(model.chain[i].nodes, lengths, strict=True):
        model.cp.add(end == start + length).only_enforce_if(model.on[i][node])
    return end


def _no_sooner(model: Model, i: int, start: Any, ready: Any, gaps: list[int]) -> None:
    least = min(gaps)
    model.cp.add(start >= ready + least)
    for node, gap in zip(model.chain[i].nodes, gaps, strict=True):
        if gap > least:
            model.cp.add(start >= ready + gap).only_enforce_if(model.on[i][node])


def holding(instance: Instance, i: int) -> int:
    """Return the phase at whose end task i gives back its memory on a stage."""
    return BACKWARD if instance.workload.is_training[i] else FORWARD
