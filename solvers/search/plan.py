"""A plan: placement and order of work, from schedules and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import BoolArray, IntArray
from lemix_opt.engine.jit import called
from lemix_opt.grid import ticks_down
from lemix_opt.instance import RELEASE_MODES, Instance
from lemix_opt.objective import Objective
from lemix_opt.schedule import BACKWARD, FORWARD, Schedule
from solvers.exact.data import TickData
from solvers.exact.readout import Key
from solvers.search.decode import (
    FIFO,
    IDLE,
    MAKESPAN,
    MODE,
    NODE_TIME,
    RULES,
    Board,
    Work,
    clear,
    put_down,
    spans_of,
)

NO_DUE = 2**62
LEVEL_FACTOR = 1e4
"""Weight of a lexicographic level relative to the next one, while searching."""


@dataclass(frozen=True)
class Plan:
    """Placement and order of work.

    Parameters
    ----------
    order : ndarray of int
        Operations 2S·task + k, k along the chain of the task (`solvers.search.decode`).
    place : ndarray of int, shape (T,)
        Node of every task.
    """

    order: IntArray
    place: IntArray


def weights_of(objective: Objective) -> dict[str, float]:
    """Return one weight per term; lexicographic levels are set apart by `LEVEL_FACTOR`."""
    weights = dict(objective.weights)
    for depth, name in enumerate(reversed(objective.lexicographic)):
        weights[name] *= LEVEL_FACTOR**depth
    return weights


def work_of(instance: Instance, data: TickData, objective: Objective) -> Work:
    """Return what decoding works on; `data` is rounded so that schedules stay feasible."""
    work, tick = instance.workload, instance.tick_s
    weights = weights_of(objective)
    weight = np.where(work.is_training, weights["training_response"], weights["inference_response"])
    dated = work.is_inference & np.isfinite(work.slo_s)
    due = np.full(instance.tasks, NO_DUE, dtype=np.int64)
    due[dated] = ticks_down(work.release_s[dated] + work.slo_s[dated], tick)
    rules = np.zeros(RULES)
    rules[MODE], rules[FIFO] = RELEASE_MODES.index(instance.release_mode), instance.fifo
    rules[MAKESPAN], rules[NODE_TIME] = weights["makespan"], weights["node_time"]
    rules[IDLE] = weights["idle"]
    return Work(
        work.is_training.astype(np.uint8),
        np.ascontiguousarray(data.release),
        due,
        weight * work.weight,
        np.where(dated, weights["late"] / tick * work.weight, 0.0),
        _after(data, work.is_training),
        np.ascontiguousarray(data.forward),
        np.ascontiguousarray(data.backward),
        np.ascontiguousarray(data.hop),
        np.ascontiguousarray(data.update),
        np.ascontiguousarray(data.held),
        np.ascontiguousarray(data.room),
        rules,
    )


def _after(data: TickData, training: BoolArray) -> IntArray:
    """Return ticks from the start of every operation to its task's end, by (N, T, 2S)."""
    stages = data.forward.shape[2]
    after = np.zeros((*data.forward.shape[:2], 2 * stages), dtype=np.int64)
    rest = np.zeros(data.forward.shape[:2], dtype=np.int64)
    for s in range(stages):
        length = data.backward[:, :, s]
        rest = length + np.maximum(rest, data.update[:, s, None])
        after[:, :, 2 * stages - 1 - s] = rest
        if s + 1 < stages:
            rest = rest + data.hop[:, :, s]
    rest = np.where(training, rest, 0)
    for s in range(stages - 1, -1, -1):
        if s + 1 < stages:
            rest = rest + data.hop[:, :, s]
        rest = rest + data.forward[:, :, s]
        after[:, :, s] = rest
    return after


def plan_of(instance: Instance, schedule: Schedule) -> Plan:
    """Return the plan of a complete schedule: its operations in order of their starts."""
    o = schedule.operations
    stages = instance.cluster.stages
    chained = o.phase <= BACKWARD
    task, phase, stage = o.task[chained], o.phase[chained], o.stage[chained]
    k = np.where(phase == FORWARD, stage, 2 * stages - 1 - stage)
    operation = 2 * stages * task.astype(np.int64) + k
    order = operation[np.lexsort((operation, o.start_s[chained]))]
    return Plan(order, schedule.node.copy())


def starts_by_key(instance: Instance, start: IntArray, tasks: IntArray) -> dict[Key, int]:
    """Return the starts of some tasks, named from 0 on, by operation.

    Parameters
    ----------
    start : ndarray of int, shape (T, 2S)
        Ticks: forwards by stage, then backwards by stage; the latter mean nothing for requests.
    """
    stages, training = instance.cluster.stages, instance.workload.is_training
    found = {}
    for local, i in enumerate(tasks.tolist()):
        row = start[i].tolist()
        for s in range(stages):
            found[local, FORWARD, s] = row[s]
            if training[i]:
                found[local, BACKWARD, s] = row[stages + s]
    return found


def by_release(instance: Instance) -> list[IntArray]:
    """Return all tasks in order of release, and with the requests before all training."""
    work = instance.workload
    release = work.release_s.copy()
    if instance.release_mode != "open":
        release[work.is_training] = np.maximum.accumulate(release[work.is_training])
    behind = [np.zeros(instance.tasks, dtype=np.bool_), work.is_training]
    return [np.lexsort((release, last)) for last in behind]


def whole_tasks(training: BoolArray, stages: int, sequence: IntArray) -> IntArray:
    """Return the order of operations that has whole tasks in a sequence."""
    operation = 2 * stages * sequence[:, None] + np.arange(2 * stages)
    exists = training[sequence, None] | (np.arange(2 * stages) < stages)
    return operation[exists]


def in_turn(instance: Instance, allowed: BoolArray, sequence: IntArray) -> Plan:
    """Return whole tasks in a sequence, on nodes in turn; every task has to fit somewhere."""
    nodes = np.arange(instance.cluster.nodes)
    turns = (np.arange(instance.tasks)[:, None] + nodes) % nodes.size
    first = np.take_along_axis(allowed.T, turns, axis=1).argmax(axis=1)
    order = whole_tasks(instance.workload.is_training, instance.cluster.stages, sequence)
    return Plan(order, turns[np.arange(instance.tasks), first])


def decoded(work: Work, board: Board, plan: Plan) -> float:
    """Fill the board with a plan; return its cost in ticks, infinity where it cannot be done."""
    arguments = (work, board, plan.order.copy(), plan.place.copy())
    return float(called(decode_plan, *arguments))


def decode_plan(work: Work, board: Board, order: Any, place: Any) -> float:
    """Decode one plan."""
    clear(work, board)
    if not put_down(work, board, order, place, 0, order.size, np.inf):
        return np.inf
    return float(board.cost[0] + spans_of(work, board, place))
