"""A schedule in ticks, as arrays over the operations of all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import BoolArray, IntArray
from lemix_opt.grid import on_grid
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, Schedule
from solvers.exact.data import TickData
from solvers.exact.readout import Key, schedule_from
from solvers.search.plan import Plan, plan_of, starts_by_key


@dataclass(frozen=True)
class State:
    """A placement and the starts of all operations.

    Parameters
    ----------
    place : ndarray of int, shape (T,)
        Node of every task.
    start : ndarray of int, shape (T, 2S)
        Ticks: forwards by stage, then backwards by stage; the latter mean nothing for requests.
    """

    place: IntArray
    start: IntArray

    def schedule(self, instance: Instance) -> Schedule:
        """Return the schedule in seconds."""
        everyone = np.arange(instance.tasks)
        return schedule_from(instance, self.place, starts_by_key(instance, self.start, everyone))

    def plan(self, instance: Instance) -> Plan:
        """Return placement and order of operations by their starts."""
        return plan_of(instance, self.schedule(instance))


def state_of(instance: Instance, data: TickData, schedule: Schedule) -> State | None:
    """Return a complete schedule in ticks; None where it does not lie on the grid."""
    o, stages = schedule.operations, instance.cluster.stages
    if not data.exact or not on_grid(o.start_s, instance.tick_s):
        return None
    start = np.zeros((instance.tasks, 2 * stages), dtype=np.int64)
    rows = o.phase <= BACKWARD
    column = o.stage[rows] + stages * (o.phase[rows] == BACKWARD)
    start[o.task[rows], column] = np.rint(o.start_s[rows] / instance.tick_s)
    return State(schedule.node.copy(), start)


@dataclass(frozen=True)
class View:
    """Where and when everything runs in a state; rows of operations are task by task.

    Parameters
    ----------
    begin, end : ndarray of int, shape (T, 2S)
        Spans of operations without updates, as in `State.start`.
    stop : ndarray of int, shape (T, 2S)
        Ends of the spans in which they take their GPUs.
    exists : ndarray of bool, shape (T, 2S)
        False for the backwards of requests.
    first, last : ndarray of int, shape (T,)
        First start and last end of every task.
    event : ndarray of int, shape (T,)
        End of the operation that lets the closed loop go on.
    """

    begin: IntArray
    end: IntArray
    stop: IntArray
    exists: BoolArray
    first: IntArray
    last: IntArray
    event: IntArray


def view_of(instance: Instance, data: TickData, state: State) -> View:
    """Return the spans of a state."""
    stages, training = instance.cluster.stages, instance.workload.is_training
    everyone = np.arange(instance.tasks)
    length = np.concatenate(
        [data.forward[state.place, everyone], data.backward[state.place, everyone]], axis=1
    )
    exists = np.ones(length.shape, dtype=np.bool_)
    exists[~training, stages:] = False
    end = state.start + length
    stop = end.copy()
    stop[:, stages:] += data.update[state.place]
    last = np.where(exists, stop, 0).max(axis=1, initial=0)
    event = end[:, 0 if instance.release_mode == "async" else stages]
    return View(state.start, end, stop, exists, state.start[:, 0], last, event)


def merged(state: State, tasks: IntArray, node: IntArray, starts: Mapping[Key, int]) -> State:
    """Return a state with other nodes and starts of some tasks, named from 0 on in `starts`."""
    place, start = state.place.copy(), state.start.copy()
    place[tasks] = node
    stages = start.shape[1] // 2
    for (local, phase, s), tick in starts.items():
        start[tasks[local], s + (stages if phase == BACKWARD else 0)] = tick
    return State(place, start)
