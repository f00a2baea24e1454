"""Why a schedule takes as long as it does: the graph of its operations and its critical path."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from lemix_opt.instance import Instance
from lemix_opt.schedule import (
    BACKWARD,
    FORWARD,
    OFFLOAD,
    PHASES,
    SYNC,
    UPDATE,
    Schedule,
)

if TYPE_CHECKING:
    import networkx as nx

TOLERANCE_S = 1e-9
REASONS = ("run", "hop", "arrival", "wait")


@dataclass(frozen=True)
class Segment:
    """One stretch of the critical path.

    Parameters
    ----------
    start_s, end_s : float
        Seconds; segments follow each other without gaps from 0 to the makespan.
    reason : {"run", "hop", "arrival", "wait"}
        ``run``: the operation itself. ``hop``: transfer between stages. ``arrival``: nothing
        could start before this task's own release. ``wait``: the operation could have started
        but did not (a reservation, a deferral or the plan).
    follows : str
        For ``run``: what the operation waited for last: ``chain`` (its predecessor), ``gpu`` (the
        operation before it on its GPU), ``memory`` (bytes that operation freed), ``loop`` (the
        closed loop of training), ``release`` (own release), ``nothing`` at time 0.
    task, phase, stage, node, micro_batch : int
        The operation.
    """

    start_s: float
    end_s: float
    reason: str
    follows: str
    task: int
    phase: int
    stage: int
    node: int
    micro_batch: int = 0

    def __str__(self) -> str:
        part = f" (micro-batch {self.micro_batch})" if self.micro_batch else ""
        where = f"on node {self.node} stage {self.stage}"
        what = f"{PHASES[self.phase]} of task {self.task}{part} {where}"
        said = {
            "run": f"runs {what}, after {self.follows}",
            "hop": f"transfers to {what}",
            "arrival": f"has no work before task {self.task} arrives",
            "wait": f"waits before {what}, which could have started",
        }[self.reason]
        return f"{self.start_s:10.4f} {self.end_s:10.4f} s  {said}"


def operation_graph(instance: Instance, schedule: Schedule) -> nx.DiGraph[int]:
    """Build the graph of what each operation had to wait for.

    Parameters
    ----------
    instance : Instance
        Rules, hops and releases.
    schedule : Schedule
        Its operations become the graph's nodes, numbered by row, with attributes ``task``,
        ``phase``, ``stage``, ``micro_batch``, ``node``, ``start_s`` and ``end_s``.

    Returns
    -------
    networkx.DiGraph
        Edges have ``reason`` (``chain``, ``gpu`` or ``loop``) and ``lag_s``, the hop between.
    """
    import networkx as nx

    rows = schedule.operations
    graph: nx.DiGraph[int] = nx.DiGraph()
    names = ("task", "phase", "stage", "micro_batch", "node", "start_s", "end_s")
    columns = [getattr(rows, name).tolist() for name in names]
    for row, values in enumerate(zip(*columns, strict=True)):
        graph.add_node(row, **dict(zip(names, values, strict=True)))
    for before, row in _gpu_pairs(schedule):
        graph.add_edge(before, row, reason="gpu", lag_s=0.0)
    for before, row in _loop_pairs(instance, schedule):
        graph.add_edge(before, row, reason="loop", lag_s=0.0)
    for before, row, lag in _chain_pairs(instance, schedule):
        graph.add_edge(before, row, reason="chain", lag_s=lag)
    return graph


def _index(schedule: Schedule) -> dict[tuple[int, int, int], dict[int, int]]:
    """Row by task, phase and stage, then by micro-batch."""
    rows = schedule.operations
    columns = (rows.task, rows.phase, rows.stage, rows.micro_batch)
    found: dict[tuple[int, int, int], dict[int, int]] = {}
    for row, (*key, part) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        found.setdefault((key[0], key[1], key[2]), {})[part] = row
    return found


def _gpu_pairs(schedule: Schedule) -> list[tuple[int, int]]:
    rows = schedule.operations
    order = np.lexsort((rows.task, rows.phase, rows.end_s, rows.start_s, rows.stage, rows.node))
    gpu = rows.node[order] * (int(np.max(rows.stage, initial=0)) + 1) + rows.stage[order]
    same = np.flatnonzero(gpu[1:] == gpu[:-1]).tolist()
    return [(int(order[i]), int(order[i + 1])) for i in same]


def _chain_pairs(instance: Instance, schedule: Schedule) -> list[tuple[int, int, float]]:
    index, last = _index(schedule), instance.cluster.stages - 1
    kind, hop = instance.cluster.node_class, instance.costs.hop_s
    found = []
    for (task, phase, stage), parts in index.items():
        lag, each = 0.0, False
        if phase == UPDATE:
            before = (task, BACKWARD, stage)
        elif phase == SYNC:
            before = (task, UPDATE, 0) if (task, UPDATE, 0) in index else (task, BACKWARD, 0)
        elif phase == OFFLOAD:
            before = (task, FORWARD, stage)
        elif phase != FORWARD and stage == last:
            before, each = (task, FORWARD, last), instance.pipeline != "gpipe"
        else:
            before = (task, FORWARD, stage - 1) if phase == FORWARD else (task, BACKWARD, stage + 1)
            each = True
            if before in index:
                of_class = int(kind[int(schedule.node[task])])
                lag = float(hop[of_class, task, min(stage, before[2])])
        # A micro-batch waits for its own predecessor, or for those of the whole task.
        found += [
            (ahead, row, lag)
            for part, row in parts.items()
            for other, ahead in index.get(before, {}).items()
            if other == part or not each
        ]
    return found


def _loop_pairs(instance: Instance, schedule: Schedule) -> list[tuple[int, int]]:
    if instance.release_mode == "open":
        return []
    index = _index(schedule)
    phase = FORWARD if instance.release_mode == "async" else BACKWARD
    loop = np.flatnonzero(instance.workload.is_training).tolist()
    gave_way = dict(schedule.gave_way)
    return [
        (ahead, row)
        for before, task in pairwise(loop)
        if before not in gave_way
        for ahead in index.get((before, phase, 0), {}).values()
        for row in index.get((task, FORWARD, 0), {}).values()
    ]


def critical_path(instance: Instance, schedule: Schedule) -> tuple[Segment, ...]:
    """Trace the makespan back to time 0: what runs, or what is waited for, in every second.

    Parameters
    ----------
    instance : Instance
        Rules, hops and releases.
    schedule : Schedule
        A schedule that `validate` accepts.

    Returns
    -------
    tuple of Segment
        In order of time, from 0 to the makespan without gaps; empty for an empty schedule.
    """
    rows = schedule.operations
    if not rows.rows:
        return ()
    graph = operation_graph(instance, schedule)
    own = instance.workload.release_s
    row = int(np.argmax(rows.end_s))
    until = float(rows.end_s[row])
    path: list[Segment] = []
    left = rows.rows
    while left:
        left -= 1
        start = float(rows.start_s[row])
        columns = (rows.task, rows.phase, rows.stage, rows.node, rows.micro_batch)
        at = tuple(int(column[row]) for column in columns)
        task, phase, stage = at[:3]
        first = phase == FORWARD and stage == 0
        reached = [
            (graph.nodes[b]["end_s"] + edge["lag_s"], edge["reason"] == "chain", b, edge)
            for b, _, edge in graph.in_edges(row, data=True)
        ]
        best = max(reached, default=None, key=lambda r: r[:3])
        release = float(own[task]) if first else 0.0
        by_release = first and (best is None or release > best[0] - TOLERANCE_S)
        ready = release if by_release or best is None else float(best[0])
        follows = "nothing" if best is None and not first else "release"
        if best is not None and not by_release:
            follows = str(best[3]["reason"])
            if follows == "gpu" and _freed_memory(instance, schedule, row, best[2]):
                follows = "memory"
        path.append(Segment(start, until, "run", follows, *at))
        until = start
        if start - ready > TOLERANCE_S:
            path.append(Segment(ready, until, "wait", follows, *at))
            until = ready
        if by_release or best is None:
            if until > 0:
                path.append(Segment(0.0, until, "arrival", follows, *at))
            break
        lag = float(best[3]["lag_s"])
        if lag > 0:
            ended = float(graph.nodes[best[2]]["end_s"])
            path.append(Segment(ended, until, "hop", follows, *at))
            until = ended
        row = int(best[2])
    return tuple(reversed(path))


def _freed_memory(instance: Instance, schedule: Schedule, row: int, before: int) -> bool:
    """Whether a forward would not have fitted before its predecessor on the GPU ended."""
    rows = schedule.operations
    if rows.phase[row] != FORWARD:
        return False
    node, stage = int(rows.node[row]), int(rows.stage[row])
    kind = int(instance.cluster.node_class[node])
    training, tasks = instance.workload.is_training, instance.tasks
    here = (rows.node == node) & (rows.stage == stage)
    moment = float(rows.end_s[before]) - TOLERANCE_S
    began = here & (rows.phase == FORWARD) & (rows.start_s <= moment)
    begun = np.bincount(rows.task[began], minlength=tasks)
    if begun[rows.task[row]]:
        return False
    last = np.where(training[rows.task], BACKWARD, FORWARD)
    over = np.bincount(rows.task[here & (rows.phase == last) & (rows.end_s <= moment)], None, tasks)
    # A task that has begun keeps its most until fewer micro-batches are left than that holds.
    most = np.where(training, instance.shares[stage], 1)
    left = np.where(training, instance.micro_batches, 1) - over
    share = instance.peak_bytes(instance.costs)[kind][:, stage] / most
    used = float((share * np.minimum(most, left))[begun > 0].sum())
    more = float(share[rows.task[row]] * most[rows.task[row]])
    capacity = float(instance.capacity_bytes[node, stage])
    return used + float(instance.resident_bytes[node, stage]) + more > capacity


def explain(instance: Instance, schedule: Schedule) -> str:
    """Describe the critical path line by line, with seconds by reason at the end."""
    path = critical_path(instance, schedule)
    total = dict.fromkeys(REASONS, 0.0)
    for segment in path:
        total[segment.reason] += segment.end_s - segment.start_s
    makespan = path[-1].end_s if path else 0.0
    shares = ", ".join(f"{reason} {seconds:.4f} s" for reason, seconds in total.items())
    return "\n".join([*map(str, path), f"makespan {makespan:.4f} s: {shares}"])
