"""Variables and constraints: shared starts, optional intervals per node, memory, releases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ortools.sat.python import cp_model

from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.exact.data import TickData

Key = tuple[int, int, int]


@dataclass
class Model:
    """A CP-SAT model with the variables its solution is read from.

    Parameters
    ----------
    on : list of list of literal
        Whether task i runs on node n.
    start, end : dict of (task, phase, stage) to variable
        Ticks of forwards and backwards; an update follows its backward directly.
    done : list of expression
        Last end of every task.
    """

    cp: cp_model.CpModel
    on: list[list[Any]]
    start: dict[Key, Any] = field(default_factory=dict)
    end: dict[Key, Any] = field(default_factory=dict)
    done: list[Any] = field(default_factory=list)


def build(instance: Instance, data: TickData) -> Model:
    """State placement, chains, releases, GPUs, memory and the FIFO option."""
    cp = cp_model.CpModel()
    tasks, nodes = range(instance.tasks), range(instance.cluster.nodes)
    model = Model(cp, [[cp.new_bool_var(f"on{i},{n}") for n in nodes] for i in tasks])
    fits = data.held <= data.room[:, None, :]
    for i in tasks:
        cp.add_exactly_one(model.on[i])
        for n in nodes:
            if not fits[n, i].all():
                cp.add(model.on[i][n] == 0)
    gpus: dict[tuple[int, int], list[Any]] = {
        (n, s): [] for n in nodes for s in range(instance.cluster.stages)
    }
    for i in tasks:
        _operations(instance, data, model, i, gpus)
    for intervals in gpus.values():
        cp.add_no_overlap(intervals)
    _releases(instance, data, model)
    _memory(instance, data, model)
    if instance.fifo:
        _one_order(instance, model)
    return model


def _operations(
    instance: Instance, data: TickData, model: Model, i: int, gpus: dict[tuple[int, int], list[Any]]
) -> None:
    cp, stages = model.cp, instance.cluster.stages
    training = bool(instance.workload.is_training[i])
    keys = [(i, FORWARD, s) for s in range(stages)]
    if training:
        keys += [(i, BACKWARD, s) for s in reversed(range(stages))]
    for key in keys:
        model.start[key] = cp.new_int_var(0, data.horizon, f"start{key}")
        model.end[key] = cp.new_int_var(0, data.horizon, f"end{key}")
    last = cp.new_int_var(0, data.horizon, f"done{i}")
    model.done.append(last)
    for n in range(instance.cluster.nodes):
        here = model.on[i][n]
        before = None
        for key in keys:
            _, phase, s = key
            length = int((data.forward if phase == FORWARD else data.backward)[n, i, s])
            after = int(data.update[n, s]) if phase == BACKWARD else 0
            start, end = model.start[key], model.end[key]
            cp.add(end == start + length).only_enforce_if(here)
            if length + after:
                gpus[n, s].append(
                    cp.new_optional_fixed_size_interval_var(
                        start, length + after, here, f"run{key},{n}"
                    )
                )
            if before is not None:
                hop = int(data.hop[n, i, min(s, before[2])]) if before[2] != s else 0
                cp.add(start >= model.end[before] + hop).only_enforce_if(here)
            if after or key == keys[-1]:
                cp.add(last >= end + after).only_enforce_if(here)
            before = key


def _releases(instance: Instance, data: TickData, model: Model) -> None:
    mode = instance.release_mode
    previous = None
    for i in range(instance.tasks):
        first = model.start[i, FORWARD, 0]
        model.cp.add(first >= int(data.release[i]))
        if instance.workload.is_training[i] and mode != "open":
            if previous is not None:
                phase = FORWARD if mode == "async" else BACKWARD
                model.cp.add(first >= model.end[previous, phase, 0])
            previous = i


def _memory(instance: Instance, data: TickData, model: Model) -> None:
    cp = model.cp
    for n in range(instance.cluster.nodes):
        for s in range(instance.cluster.stages):
            intervals, demands = [], []
            for i in range(instance.tasks):
                need = int(data.held[n, i, s])
                if need == 0 or need > data.room[n, s]:
                    continue
                start = model.start[i, FORWARD, s]
                phase = BACKWARD if instance.workload.is_training[i] else FORWARD
                size = cp.new_int_var(0, data.horizon, "")
                intervals.append(
                    cp.new_optional_interval_var(
                        start, size, model.end[i, phase, s], model.on[i][n], f"hold{i},{n},{s}"
                    )
                )
                demands.append(need)
            if sum(demands) > data.room[n, s]:
                cp.add_cumulative(intervals, demands, int(data.room[n, s]))


def _one_order(instance: Instance, model: Model) -> None:
    cp = model.cp
    for i in range(instance.tasks):
        for j in range(i + 1, instance.tasks):
            ahead = cp.new_bool_var(f"ahead{i},{j}")
            for n in range(instance.cluster.nodes):
                both = [model.on[i][n], model.on[j][n]]
                for s in range(instance.cluster.stages):
                    a, b = (i, FORWARD, s), (j, FORWARD, s)
                    cp.add(model.start[b] >= model.end[a]).only_enforce_if([*both, ahead])
                    cp.add(model.start[a] >= model.end[b]).only_enforce_if([*both, ~ahead])
