"""`budget`: training is admitted only into predicted slack of the requests' SLO.

In the spirit of published co-location schedulers, which give best-effort training what a latency
budget leaves; the rule is this toolkit's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.engine.books import NONE
from lemix_opt.engine.codes import SEES_ASSIGN, SEES_DROP
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.view import View
from lemix_opt.instance import Instance
from lemix_opt.schedule import FORWARD
from solvers.online.forecast import (
    DRIFT,
    NODE_OWN,
    NOISE_S,
    choose,
    end_s,
    follow,
    fresh,
    gpu_at,
    idle_from,
    node_at,
    predict_backwards,
    soonest,
)
from solvers.online.requests import (
    FREE,
    OPEN,
    SEEN,
    excess,
    expect,
    note,
    put_off,
    slo_of,
)

SHARE = FREE
# Columns per node: open requests, and the least slack of one, drift of the last stage added.
OPEN_HERE, TIGHTEST = range(NODE_OWN, NODE_OWN + 2)


@dataclass(frozen=True)
class Budget(CompiledPolicy):
    """`budget`: requests go to the shortest predicted response, training into their slack.

    A training task goes to the node of its shortest response too, unless an open request there is
    predicted to be late, or the next request would be answered later than its budget: on the best
    node then, behind the requests that are predicted to arrive until the training task has left.
    It waits until the next request in flight has ended, or until there is room when none is in
    flight; an idle node takes it then in any case, so that training always runs in the end.

    Training tasks that wait are all asked again at the end of every request. In the closed loops
    of the paper at most one waits; under open releases with a long backlog that is a scan of it.

    Parameters
    ----------
    share : float, default 0.5
        Budget of a request, in parts of its SLO; the rest is left to what is not predicted.
    window : int, default 16
        Requests over which arrival rate, length and SLO of the next one are averaged, with
        exponentially falling weights.
    slo_units : float, default 5
        SLO of requests that have none, in SLO units of the instance.
    """

    share: float = 0.5
    window: int = 16
    slo_units: float = 5.0

    def __post_init__(self) -> None:
        floats("share", self.share, (), above=0)
        whole("window", self.window, minimum=1)
        floats("slo_units", self.slo_units, (), above=0)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return the forecast of an idle cluster and the parameters."""
        state = fresh(instance)
        expect(state, instance, self.slo_units, self.window)
        state[SHARE] = self.share
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the shortest response; for training, among nodes that keep within the budget."""
        best = soonest(view, state, 0, view.node_class.size, task, now_s)
        if best == NONE:
            return 0
        if not view.training[task] or state[SEEN] == 0:
            return choose(state, best, task, now_s)
        idle_s = idle_from(view, state, best)
        if state[OPEN] == 0 and idle_s <= now_s + NOISE_S:
            return choose(state, best, task, now_s)
        predict_backwards(view, state, best, task)
        over_s = excess(view, state, best, task, now_s, state[SHARE])
        drift = state[gpu_at(view, best, view.memory_bytes.shape[1] - 1) + DRIFT]
        late = state[node_at(best) + OPEN_HERE] > 0 and state[node_at(best) + TIGHTEST] < drift
        if over_s <= NOISE_S and not late:
            return choose(state, best, task, now_s)
        return put_off(state, now_s, idle_s if late else min(idle_s, now_s + over_s))

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
        """Keep the forecast, the slack of open requests, and what the next one will be like."""
        follow(kind, time_s, task, node, phase, stage, view, state)
        note(kind, time_s, task, node, phase, stage, view, state)
        if view.training[task]:
            return 0
        last_stage = view.memory_bytes.shape[1] - 1
        at = node_at(node)
        if kind == SEES_ASSIGN:
            slack = view.release_s[task] + slo_of(view, state, task) - end_s(view, state, node)
            slack += state[gpu_at(view, node, last_stage) + DRIFT]
            if state[at + OPEN_HERE] == 0 or slack < state[at + TIGHTEST]:
                state[at + TIGHTEST] = slack
            state[at + OPEN_HERE] += 1
        elif kind == SEES_DROP or (phase == FORWARD and stage == last_stage):
            state[at + OPEN_HERE] -= 1
        return 0
