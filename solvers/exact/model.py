"""Variables and constraints: shared starts, optional intervals per node, memory, releases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
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
    chained = instance.release_mode != "open"
    event = 0
    for i in tasks:
        trains = chained and bool(instance.workload.is_training[i])
        head = max(int(data.release[i]), event if trains else 0)
        opened = _operations(instance, data, model, i, head, gpus)
        event = head + opened if trains else event
    for intervals in gpus.values():
        cp.add_no_overlap(intervals)
    _releases(instance, data, model)
    _memory(instance, data, model)
    if instance.fifo:
        _one_order(instance, model)
    return model


def _operations(
    instance: Instance,
    data: TickData,
    model: Model,
    i: int,
    head: int,
    gpus: dict[tuple[int, int], list[Any]],
) -> int:
    """State the chain of task i from tick `head` on; return the ticks until a successor's release.

    What holds on every node the task may run on is stated without a condition, so that the bound
    does not depend on the placement.
    """
    cp, stages = model.cp, instance.cluster.stages
    nodes = [
        n for n in range(instance.cluster.nodes) if bool(np.all(data.held[n, i] <= data.room[n]))
    ]
    nodes = nodes or list(range(instance.cluster.nodes))
    keys = [(FORWARD, s) for s in range(stages)]
    if instance.workload.is_training[i]:
        keys += [(BACKWARD, s) for s in reversed(range(stages))]
    event = (FORWARD if instance.release_mode == "async" else BACKWARD, 0)
    earliest, opened = head, 0
    lasts: list[Any] = []
    before: tuple[int, int] | None = None
    for phase, s in keys:
        lengths = [
            int((data.forward if phase == FORWARD else data.backward)[n, i, s]) for n in nodes
        ]
        hops = [0] * len(nodes)
        if before is not None and before[1] != s:
            hops = [int(data.hop[n, i, min(s, before[1])]) for n in nodes]
        earliest += min(hops)
        start = cp.new_int_var(earliest, data.horizon, f"start{i},{phase},{s}")
        end = _after(cp, start, list(zip(nodes, lengths, strict=True)), model.on[i], data.horizon)
        model.start[i, phase, s], model.end[i, phase, s] = start, end
        if before is not None:
            ready = model.end[(i, *before)]
            _no_sooner(cp, start, ready, list(zip(nodes, hops, strict=True)), model.on[i])
        tails = [int(data.update[n, s]) if phase == BACKWARD else 0 for n in nodes]
        for n, length, tail in zip(nodes, lengths, tails, strict=True):
            if length + tail:
                gpus[n, s].append(
                    cp.new_optional_fixed_size_interval_var(
                        start, length + tail, model.on[i][n], f"run{i},{phase},{s},{n}"
                    )
                )
        if max(tails) or (phase, s) == keys[-1]:
            lasts.append(
                _after(cp, end, list(zip(nodes, tails, strict=True)), model.on[i], data.horizon)
            )
        earliest += min(lengths)
        before = (phase, s)
        if before == event:
            opened = earliest - head
    if len(lasts) == 1:
        model.done.append(lasts[0])
    else:
        done = cp.new_int_var(earliest, data.horizon, f"done{i}")
        for last in lasts:
            cp.add(done >= last)
        model.done.append(done)
    return opened


def _after(
    cp: cp_model.CpModel, start: Any, lengths: list[tuple[int, int]], on: list[Any], horizon: int
) -> Any:
    """Return start + length, a variable only where nodes differ in length."""
    least = min(length for _, length in lengths)
    if all(length == least for _, length in lengths):
        return start + least
    end = cp.new_int_var(0, horizon, "")
    cp.add(end >= start + least)
    for node, length in lengths:
        cp.add(end == start + length).only_enforce_if(on[node])
    return end


def _no_sooner(
    cp: cp_model.CpModel, start: Any, ready: Any, hops: list[tuple[int, int]], on: list[Any]
) -> None:
    least = min(hop for _, hop in hops)
    cp.add(start >= ready + least)
    for node, hop in hops:
        if hop > least:
            cp.add(start >= ready + hop).only_enforce_if(on[node])


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
