"""What every node is predicted to do: forward ends per stage and the backwards still owed.

All of it lies in one array of floats, so that compiled code reads it without a detour. Times are
kept without the drift of their stage, which is how far reality has run behind the prediction;
it is added when they are read. Open tasks have a slot each, and slots are used again, so that a
decision costs the same after any number of finished tasks.
"""

from __future__ import annotations

from math import inf, isnan, nan
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.engine.books import NONE
from lemix_opt.engine.codes import SEES_ASSIGN, SEES_DROP
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.view import View, fits
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD

HEADER = 32
"""Entries before the forecast; from `OWN` on they belong to the policy."""
# 0 belongs to deferrals; `TAKEN` counts open tasks; then task, node and time of the answer whose
# forwards are predicted already.
TAKEN, CHOSEN, CHOSEN_NODE, CHOSEN_S, OWN = range(1, 6)
# Columns per node; those from `NODE_OWN` on belong to the policy.
LAST_RELEASE, OLDEST, YOUNGEST, NODE_OWN, NODE_COLUMNS = 0, 1, 2, 3, 6
# Columns per GPU.
FORWARD_END, DRIFT, NEXT_OWED, END, BEGIN, FINISH, GPU_COLUMNS = range(7)
# Columns per slot, before those per stage: forward end, backward begin, backward end.
AHEAD, BEHIND, SLOT_COLUMNS = 0, 1, 2
NOBODY = -1.0
NOISE_S = 1e-9
"""Seconds that sums of floats may be off; moments this close are one, whatever is decided."""


def fresh(instance: Instance) -> FloatArray:
    """Return the forecast of an idle cluster, header included."""
    nodes, stages, tasks = instance.cluster.nodes, instance.cluster.stages, instance.tasks
    width = SLOT_COLUMNS + 3 * stages
    first = HEADER + NODE_COLUMNS * nodes + GPU_COLUMNS * nodes * stages
    # Slots are written when they are taken; untouched pages cost nothing.
    numbers = np.empty(first + 2 * tasks + width * tasks)
    numbers[:first] = 0.0
    numbers[CHOSEN] = NOBODY
    node = numbers[HEADER : HEADER + NODE_COLUMNS * nodes].reshape(nodes, NODE_COLUMNS)
    node[:, LAST_RELEASE] = nan
    node[:, [OLDEST, YOUNGEST]] = NOBODY
    gpu = numbers[HEADER + NODE_COLUMNS * nodes : first].reshape(-1, GPU_COLUMNS)
    gpu[:, FORWARD_END] = nan
    gpu[:, NEXT_OWED] = NOBODY
    numbers[first : first + tasks] = NOBODY
    numbers[first + tasks : first + 2 * tasks] = np.arange(tasks)
    return numbers


@inlined
def node_at(node: int) -> int:
    """Return where a node's columns begin."""
    return index(HEADER + NODE_COLUMNS * node)


@inlined
def gpu_at(view: View, node: int, stage: int) -> int:
    """Return where a GPU's columns begin."""
    nodes, stages = view.memory_bytes.shape
    return index(HEADER + NODE_COLUMNS * nodes + GPU_COLUMNS * (node * stages + stage))


@inlined
def tasks_at(view: View) -> int:
    """Return where the slots of tasks, then the free slots, are listed."""
    nodes, stages = view.memory_bytes.shape
    return index(HEADER + NODE_COLUMNS * nodes + GPU_COLUMNS * nodes * stages)


@inlined
def slot_columns(view: View) -> int:
    """Return how many columns a slot has."""
    return SLOT_COLUMNS + 3 * view.memory_bytes.shape[1]


@inlined
def slot_at(view: View, slot: int) -> int:
    """Return where a slot's columns begin."""
    tasks = view.training.size
    return index(tasks_at(view) + 2 * tasks + slot * slot_columns(view))


@inlined
def predict_forwards(
    view: View, state: Any, node: int, task: int, now_s: float, limit_s: float
) -> tuple[bool, float]:
    """Predict the forwards of a task that is placed now; they change scratch columns only.

    A forward follows the previous forward of its stage; one that would reach into an earlier
    task's backward there waits until that has left the stage (the rule ``gpu_order="reserve"``).

    Returns
    -------
    foreseen : bool
        False once it is clear that the last forward ends after `limit_s`; nothing else is known
        then. Else the predicted ends are in the column ``END``.
    idleness : float
        Seconds stages wait for this task, after their previous forward and beside backwards,
        summed over stages (LeMix's II).
    """
    # What the view holds is read before the loop: each write to the state would have it read again.
    forward_s, hop_s = view.forward_s, view.hop_s
    stages, kind = forward_s.shape[2], index(view.node_class[node])
    gpu, slots, width = gpu_at(view, node, 0), slot_at(view, 0), slot_columns(view)
    rest_s = -limit_s
    for s in range(stages):
        rest_s += forward_s[kind, task, s]
    idleness, ready = 0.0, now_s
    for s in range(stages):
        at = index(gpu + GPU_COLUMNS * s)
        seconds = forward_s[kind, task, s]
        drift = state[at + DRIFT]
        last = state[at + FORWARD_END]
        free = now_s if isnan(last) else last + drift
        start = max(free, ready)
        stop = start + seconds
        between = 0.0
        slot = int(state[at + NEXT_OWED])
        while slot >= 0:
            owed = index(slots + width * slot)
            begin = state[index(owed + SLOT_COLUMNS + stages + s)] + drift
            if stop <= begin + NOISE_S:
                break
            busy_until = state[index(owed + SLOT_COLUMNS + 2 * stages + s)] + drift
            if busy_until > start:
                between += busy_until - max(begin, free)
                start = busy_until
                stop = start + seconds
            slot = int(state[owed + BEHIND])
        rest_s -= seconds
        if stop + rest_s > NOISE_S:
            return False, 0.0
        state[at + END] = stop
        idleness += max(start - free - max(between, 0.0), 0.0)
        ready = stop
        if s + 1 < stages:
            ready += hop_s[kind, task, s]
    return True, idleness


@inlined
def predict_backwards(view: View, state: Any, node: int, task: int) -> None:
    """Predict the backwards behind forwards that were predicted last for this node.

    Backwards follow each other in order of placement; ``BEGIN`` and ``FINISH`` hold their times.
    """
    backward_s, hop_s = view.backward_s, view.hop_s
    stages, kind = backward_s.shape[2], index(view.node_class[node])
    gpu = gpu_at(view, node, 0)
    youngest = int(state[node_at(node) + YOUNGEST])
    last = slot_at(view, max(youngest, 0)) + SLOT_COLUMNS + 2 * stages
    moment = state[gpu + GPU_COLUMNS * (stages - 1) + END]
    for s in range(stages - 1, -1, -1):
        at = index(gpu + GPU_COLUMNS * s)
        if youngest >= 0:
            moment = max(moment, state[last + s] + state[at + DRIFT])
        state[at + BEGIN] = moment
        moment += backward_s[kind, task, s]
        state[at + FINISH] = moment
        if s:
            moment += hop_s[kind, task, s - 1]


@inlined
def choose(state: Any, node: int, task: int, now_s: float) -> int:
    """Return the node as an answer; its forwards were predicted now and are not again."""
    state[CHOSEN], state[CHOSEN_NODE], state[CHOSEN_S] = task, node, now_s
    return node


@inlined
def predict(view: View, state: Any, node: int, task: int, now_s: float) -> None:
    """Predict all of a task that is placed now."""
    chosen = state[CHOSEN] == task and state[CHOSEN_NODE] == node and state[CHOSEN_S] == now_s
    if not chosen:
        predict_forwards(view, state, node, task, now_s, inf)
    if view.training[task]:
        predict_backwards(view, state, node, task)


@inlined
def end_s(view: View, state: Any, node: int) -> float:
    """Return the end of the last forward of the latest prediction for a node."""
    return float(state[gpu_at(view, node, view.memory_bytes.shape[1] - 1) + END])


@inlined
def soonest(view: View, state: Any, first: int, last: int, task: int, now_s: float) -> int:
    """Return which node of `first` to `last` − 1 is predicted to end a task's forwards first.

    The first node on ties; −1 if the task fits on none. Only the node returned is sure to be
    predicted.
    """
    best, earliest_s = NONE, inf
    for node in range(first, last):
        if not fits(view, node, task):
            continue
        foreseen, _ = predict_forwards(view, state, node, task, now_s, earliest_s)
        if foreseen:
            stop_s = end_s(view, state, node)
            if stop_s < earliest_s - NOISE_S:
                best, earliest_s = node, stop_s
    return best


@inlined
def idle_from(view: View, state: Any, node: int) -> float:
    """Return when a node is predicted to have nothing left to do."""
    stages = view.memory_bytes.shape[1]
    youngest = int(state[node_at(node) + YOUNGEST])
    moment = -inf
    for s in range(stages):
        at = gpu_at(view, node, s)
        if not isnan(state[at + FORWARD_END]):
            moment = max(moment, state[at + FORWARD_END] + state[at + DRIFT])
        if youngest >= 0:
            owed = slot_at(view, youngest) + SLOT_COLUMNS + 2 * stages + s
            moment = max(moment, state[owed] + state[at + DRIFT])
    return moment


@inlined
def next_response(
    view: View, state: Any, node: int, seconds: float, now_s: float, behind: int
) -> float:
    """Predict the response of a request that comes now and takes `seconds` on every stage.

    Parameters
    ----------
    behind : int
        A task that it comes behind, as it was predicted last for this node; −1 for none.

    Returns
    -------
    float
        Seconds until its last forward ends; hops are left out.
    """
    stages, ready = view.memory_bytes.shape[1], now_s
    gpu, slots, width = gpu_at(view, node, 0), slot_at(view, 0), slot_columns(view)
    trains = behind >= 0 and view.training[behind] == 1
    for s in range(stages):
        at = index(gpu + GPU_COLUMNS * s)
        drift = state[at + DRIFT]
        if behind >= 0:
            ready = max(ready, state[at + END])
        elif not isnan(state[at + FORWARD_END]):
            ready = max(ready, state[at + FORWARD_END] + drift)
        slot = int(state[at + NEXT_OWED])
        while slot >= 0:
            owed = index(slots + width * slot)
            if ready + seconds <= state[owed + SLOT_COLUMNS + stages + s] + drift + NOISE_S:
                break
            ready = max(ready, state[owed + SLOT_COLUMNS + 2 * stages + s] + drift)
            slot = int(state[owed + BEHIND])
        if slot < 0 and trains and ready + seconds > state[at + BEGIN] + NOISE_S:
            ready = max(ready, state[at + FINISH])
        ready += seconds
    return ready - now_s


@inlined
def skip_past(view: View, state: Any, node: int, stage: int) -> None:
    """Pass over owed backwards that end before the stage's last forward does."""
    stages = view.memory_bytes.shape[1]
    at = gpu_at(view, node, stage)
    slot = int(state[at + NEXT_OWED])
    while slot >= 0:
        owed = slot_at(view, slot)
        if state[owed + SLOT_COLUMNS + 2 * stages + stage] > state[at + FORWARD_END]:
            break
        slot = int(state[owed + BEHIND])
    state[at + NEXT_OWED] = slot


@inlined
def place(view: View, state: Any, node: int, task: int, release_s: float) -> None:
    """Take the task into the books as it was predicted last for this node."""
    stages, tasks = view.memory_bytes.shape[1], view.training.size
    column = node_at(node)
    listed = tasks_at(view)
    taken = int(state[TAKEN])
    state[TAKEN] = taken + 1
    slot = int(state[listed + tasks + taken])
    state[listed + task] = slot
    own = slot_at(view, slot)
    trains = view.training[task]
    youngest = int(state[column + YOUNGEST])
    state[own + AHEAD] = youngest
    state[own + BEHIND] = NOBODY
    state[column + LAST_RELEASE] = release_s
    for s in range(stages):
        at = gpu_at(view, node, s)
        drift = state[at + DRIFT]
        state[at + FORWARD_END] = state[at + END] - drift
        state[own + SLOT_COLUMNS + s] = state[at + FORWARD_END]
        if trains:
            state[own + SLOT_COLUMNS + stages + s] = state[at + BEGIN] - drift
            state[own + SLOT_COLUMNS + 2 * stages + s] = state[at + FINISH] - drift
            if state[at + NEXT_OWED] < 0:
                state[at + NEXT_OWED] = slot
    if trains:
        if youngest >= 0:
            state[slot_at(view, youngest) + BEHIND] = slot
        else:
            state[column + OLDEST] = slot
        state[column + YOUNGEST] = slot
    for s in range(stages):
        skip_past(view, state, node, s)


@inlined
def leave(view: View, state: Any, node: int, task: int) -> None:
    """Forget a task that will not run any more."""
    stages, tasks = view.memory_bytes.shape[1], view.training.size
    listed = tasks_at(view)
    slot = int(state[listed + task])
    if slot < 0:
        return
    state[listed + task] = NOBODY
    if view.training[task]:
        own, column = slot_at(view, slot), node_at(node)
        ahead, behind = int(state[own + AHEAD]), int(state[own + BEHIND])
        for s in range(stages):
            at = gpu_at(view, node, s)
            if int(state[at + NEXT_OWED]) == slot:
                state[at + NEXT_OWED] = behind
        if ahead >= 0:
            state[slot_at(view, ahead) + BEHIND] = behind
        else:
            state[column + OLDEST] = behind
        if behind >= 0:
            state[slot_at(view, behind) + AHEAD] = ahead
        else:
            state[column + YOUNGEST] = ahead
        for s in range(stages):
            skip_past(view, state, node, s)
    taken = int(state[TAKEN]) - 1
    state[TAKEN] = taken
    state[listed + tasks + taken] = slot


@inlined
def ended(
    view: View, state: Any, node: int, task: int, phase: int, stage: int, time_s: float
) -> None:
    """Correct the books by a forward or backward that has ended."""
    stages = view.memory_bytes.shape[1]
    slot = int(state[tasks_at(view) + task])
    if slot < 0 or phase > BACKWARD:
        return
    at = gpu_at(view, node, stage)
    block = 0 if phase == FORWARD else 2 * stages
    expected = state[slot_at(view, slot) + SLOT_COLUMNS + block + stage]
    state[at + DRIFT] = time_s - expected
    if state[at + FORWARD_END] < expected:
        state[at + FORWARD_END] = expected
        skip_past(view, state, node, stage)
    done = phase == FORWARD and stage == stages - 1 and not view.training[task]
    if done or (phase == BACKWARD and stage == 0):
        leave(view, state, node, task)


@inlined
def follow(
    kind: int, time_s: float, task: int, node: int, phase: int, stage: int, view: View, state: Any
) -> None:
    """Take a placement, an end or a drop into the books."""
    task, node = index(task), index(node)
    if kind == SEES_ASSIGN:
        predict(view, state, node, task, time_s)
        place(view, state, node, task, time_s)
    elif kind == SEES_DROP:
        leave(view, state, node, task)
    else:
        ended(view, state, node, task, phase, stage, time_s)


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
    """Keep the forecast and nothing else."""
    follow(kind, time_s, task, node, phase, stage, view, state)
    return 0
