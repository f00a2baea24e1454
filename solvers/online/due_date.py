"""`edf`: a central queue in order of due dates; a node gets a task when it can start it.

An engine that asks about one released task at a time cannot wake the head of such a queue when a
node becomes free. Every waiting task therefore asks again by itself: the first four when the next
node is predicted to become free, the others after a quarter of the time that their turn is
predicted to take. That is a logarithm of the backlog per task instead of a scan of the backlog per
completion. A node that becomes free earlier than predicted stays idle until the predicted moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, floats
from lemix_opt.engine.codes import DEFER_TIME, SEES_ASSIGN
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.view import View, fits
from lemix_opt.instance import Instance
from solvers.online.forecast import END, OWN, end_s, follow, fresh, gpu_at, predict_forwards

# Mean seconds that a placed task occupies a first stage, over how many tasks, and the first entry
# of the queue: ranks by due date, then a Fenwick tree over ranks that counts the waiting.
MEAN_S, COUNTED, QUEUE = range(OWN, OWN + 3)
FIRST, PART = 4, 0.25
"""How many wait for the next free node, and the part of their wait after which others ask."""
NEARLY_NOW_S = 1e-9
SHORTEST_WAIT_S = 1e-6


@inlined
def count(view: View, state: Any, task: int, by: int) -> None:
    """Add a task to those that wait, or take it off (`by` 1 or −1)."""
    tasks = view.training.size
    ranks = int(state[QUEUE])
    at = int(state[ranks + task])
    waits = at < 0
    if waits == (by > 0):
        return
    # The sign of a task's rank says whether it waits.
    state[ranks + task] = -at
    at = abs(at)
    while at <= tasks:
        state[ranks + tasks + at] += by
        at += at & -at


@inlined
def ahead(view: View, state: Any, task: int) -> int:
    """Return how many waiting tasks are due before this one."""
    ranks = int(state[QUEUE])
    at = abs(int(state[ranks + task])) - 1
    found = 0.0
    while at > 0:
        found += state[ranks + view.training.size + at]
        at -= at & -at
    return int(found)


@dataclass(frozen=True)
class EarliestDueDate(CompiledPolicy):
    """`edf`: the earliest due date first, on the node of the shortest predicted response.

    A task is due at its own release plus its SLO; training, which has none, comes after all
    requests, in its own order. A node can start a task when its first stage is predicted to be
    free for it.

    Parameters
    ----------
    slo_units : float, default 5
        SLO of requests that have none, in SLO units of the instance.
    """

    slo_units: float = 5.0

    def __post_init__(self) -> None:
        floats("slo_units", self.slo_units, (), above=0)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return the forecast of an idle cluster, ranks by due date and an empty queue."""
        work, tasks = instance.workload, instance.tasks
        books = fresh(instance)
        unit = instance.slo_unit_s
        slo_s = inf if unit is None or np.isnan(unit) else self.slo_units * unit
        relative = np.where(np.isfinite(work.slo_s), work.slo_s, slo_s)
        due_s = np.where(work.is_training, inf, work.release_s + relative)
        ranks = np.empty(tasks)
        ranks[np.argsort(due_s, kind="stable")] = np.arange(1, tasks + 1)
        books[QUEUE] = books.size
        return np.concatenate([books, ranks, np.zeros(tasks + 1)])

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Place the task if as many nodes can start it as are due before it; else let it wait."""
        nodes = view.node_class.size
        before = ahead(view, state, task)
        if before >= max(FIRST, nodes) and state[MEAN_S] > 0:
            count(view, state, task, 1)
            state[0] = now_s + max(PART * before / nodes * state[MEAN_S], SHORTEST_WAIT_S)
            return DEFER_TIME
        best, earliest, free, next_s = -1, inf, 0, inf
        for node in range(nodes):
            if not fits(view, node, task):
                continue
            best = max(best, 0)
            predict_forwards(view, state, node, task, now_s, inf)
            start = state[gpu_at(view, node, 0) + END]
            start -= view.forward_s[view.node_class[node], task, 0]
            if start <= now_s + NEARLY_NOW_S:
                free += 1
                end = end_s(view, state, node)
                if end < earliest:
                    best, earliest = node, end
            elif start < next_s:
                next_s = start
        if before < free or best < 0:
            return max(best, 0)
        count(view, state, task, 1)
        if free:
            # Whoever is before it is asked at this moment too, but perhaps after it.
            next_s = min(next_s, now_s + 0.1 * max(state[MEAN_S], view.forward_s[0, task, 0]))
        state[0] = max(next_s, now_s + SHORTEST_WAIT_S)
        return DEFER_TIME

    @staticmethod
    def observe_function(
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
        """Keep the forecast, the queue and the mean time of a first stage."""
        follow(kind, time_s, task, node, phase, stage, view, state)
        if kind == SEES_ASSIGN:
            count(view, state, task, -1)
            kept = view.node_class[node]
            seconds = view.forward_s[kept, task, 0]
            if view.training[task]:
                seconds += view.backward_s[kept, task, 0]
            state[COUNTED] += 1
            state[MEAN_S] += (seconds - state[MEAN_S]) / state[COUNTED]
        return 0
