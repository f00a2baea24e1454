"""What simple rules know of the cluster: open tasks, work left and memory in use."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.engine.books import NONE
from lemix_opt.engine.codes import SEES_ASSIGN, SEES_DROP
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.view import View, fits
from lemix_opt.errors import InfeasibleError
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD, UPDATE

HEADER = 4
"""Entries before the columns; 0 and 1 belong to the engine, the others to the rule."""
NODES_USED, PARAMETER = 2, 3
OPEN, WORK, NODE_COLUMNS = 0, 1, 2


def fresh(instance: Instance, nodes_used: int | None, extra: int = 0) -> FloatArray:
    """Return the books of an idle cluster, with `extra` entries at their end.

    Raises
    ------
    InfeasibleError
        If a task fits on none of the first `nodes_used` nodes.
    """
    nodes, stages = instance.cluster.nodes, instance.cluster.stages
    state = np.zeros(HEADER + NODE_COLUMNS * nodes + nodes * stages + extra)
    state[NODES_USED] = first_nodes(instance, nodes_used)
    memory_at = HEADER + NODE_COLUMNS * nodes
    state[memory_at : memory_at + nodes * stages] = instance.resident_bytes.reshape(-1)
    return state


def first_nodes(instance: Instance, wanted: int | None) -> int:
    """Return how many of the first nodes a rule uses; all of them if none are wanted.

    Raises
    ------
    InfeasibleError
        If a task fits on none of them.
    """
    nodes = instance.cluster.nodes
    if wanted is None or wanted >= nodes:
        return nodes
    if not instance.fits_everywhere:
        fits = instance.fits()
        homeless = np.flatnonzero(~fits[:, :wanted].any(axis=1))
        if homeless.size:
            task = int(homeless[0])
            enough = int(fits.argmax(axis=1).max()) + 1
            names = "node 0" if wanted == 1 else f"nodes 0 to {wanted - 1}"
            raise InfeasibleError(
                f"task {task} does not fit on {names}, to which the policy is kept",
                where="nodes",
                expected=f"at least {enough}, with which every task fits on one",
            )
    return wanted


@inlined
def count_fitting(view: View, first: int, last: int, task: int) -> int:
    """Return how many of the nodes `first` to `last` − 1 a task fits on."""
    fitting = 0
    for node in range(first, last):
        fitting += fits(view, node, task)
    return fitting


@inlined
def in_turn(view: View, first: int, last: int, task: int, turn: int) -> int:
    """Return whose turn it is of the nodes `first` to `last` − 1 that a task fits on.

    The turn is taken modulo their number; −1 if the task fits on none.
    """
    if view.all_fit:
        return first + turn % (last - first)
    left = turn % max(count_fitting(view, first, last, task), 1)
    for node in range(first, last):
        if fits(view, node, task):
            if left == 0:
                return node
            left -= 1
    return NONE


@inlined
def in_turn_of_part(view: View, first: int, last: int, task: int) -> int:
    """Return whose turn it is of a part of the nodes, or of all if the task fits on none of it."""
    node = in_turn(view, first, last, task, task)
    return in_turn(view, 0, view.node_class.size, task, task) if node == NONE else node


@inlined
def node_at(node: int) -> int:
    """Return where a node's columns begin."""
    return HEADER + NODE_COLUMNS * node


@inlined
def memory_at(view: View, node: int, stage: int) -> int:
    """Return where the bytes in use on a GPU stand."""
    nodes, stages = view.memory_bytes.shape
    return HEADER + NODE_COLUMNS * nodes + node * stages + stage


@inlined
def extra_at(view: View) -> int:
    """Return where a rule's own entries begin."""
    nodes, stages = view.memory_bytes.shape
    return HEADER + NODE_COLUMNS * nodes + nodes * stages


@inlined
def least_of(view: View, state: Any, task: int, column: int) -> int:
    """Return which node in use that a task fits on has the least in a column, the first on ties."""
    best, least = 0, inf
    for node in range(int(state[NODES_USED])):
        value = state[node_at(node) + column]
        if value < least and fits(view, node, task):
            best, least = node, value
    return best


@inlined
def work_from(view: View, node: int, task: int, stage: int) -> float:
    """Return predicted GPU seconds of a task from its forward on a stage on."""
    kind = view.node_class[node]
    work_s = 0.0
    for s in range(view.memory_bytes.shape[1]):
        if s >= stage:
            work_s += view.forward_s[kind, task, s]
        if view.training[task]:
            work_s += view.backward_s[kind, task, s]
    return work_s


def keep(
    kind: int,
    time_s: float,
    task: int,
    node: int,
    phase: int,
    stage: int,
    memory_bytes: float,
    view: View,
    state: Any,
) -> int:
    """Count what was placed, started, ended and dropped."""
    at = node_at(node)
    if kind == SEES_ASSIGN:
        state[at + OPEN] += 1
        state[at + WORK] += work_from(view, node, task, 0)
        return 0
    closed = False
    if kind == SEES_DROP:
        closed = True
        state[at + WORK] -= work_from(view, node, task, stage)
    else:
        state[memory_at(view, node, stage)] = memory_bytes
        if phase == UPDATE or state[at + OPEN] == 0:
            return 0
        columns = view.forward_s if phase == FORWARD else view.backward_s
        state[at + WORK] -= columns[view.node_class[node], task, stage]
        ends_with = (
            (BACKWARD, 0) if view.training[task] else (FORWARD, view.memory_bytes.shape[1] - 1)
        )
        closed = phase == ends_with[0] and stage == ends_with[1]
    if closed:
        state[at + OPEN] -= 1
        if state[at + OPEN] == 0:
            # Sums of floats drift; an empty node has exactly nothing left.
            state[at + WORK] = 0.0
    return 0


def keep_memory(
    kind: int,
    time_s: float,
    task: int,
    node: int,
    phase: int,
    stage: int,
    memory_bytes: float,
    view: View,
    state: Any,
) -> int:
    """Note the memory in use."""
    state[memory_at(view, node, stage)] = memory_bytes
    return 0


def ignore(
    kind: int,
    time_s: float,
    task: int,
    node: int,
    phase: int,
    stage: int,
    memory_bytes: float,
    view: View,
    state: Any,
) -> int:
    """Take no note."""
    return 0
