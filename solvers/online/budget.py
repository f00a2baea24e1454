"""`budget`: training is admitted only into predicted slack of the requests' SLO.

In the spirit of published co-location schedulers, which give best-effort training what a latency
budget leaves; the rule is this toolkit's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.engine.codes import DEFER_INFERENCE, DEFER_TIME, SEES_ASSIGN, SEES_DROP
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.view import View
from lemix_opt.instance import Instance
from lemix_opt.schedule import FORWARD
from solvers.online.forecast import (
    DRIFT,
    FINISH,
    NODE_OWN,
    OWN,
    end_s,
    fits,
    follow,
    fresh,
    gpu_at,
    idle_from,
    next_response,
    node_at,
    predict,
)

SHARE, SLO, WEIGHT, OPEN, SEEN, LAST_S, GAP_S, STAGE_S, BUDGET_S = range(OWN, OWN + 9)
SHORTEST_WAIT_S = 1e-6
# Columns per node: open requests, and the least slack of one, drift of the last stage added.
OPEN_HERE, TIGHTEST = range(NODE_OWN, NODE_OWN + 2)


@dataclass(frozen=True)
class Budget(CompiledPolicy):
    """`budget`: requests go to the shortest predicted response, training into their slack.

    A training task may go to a node when no open request there is predicted to be late, and when
    the next request is still predicted to be answered within its budget afterwards: on the best
    node, behind the requests that are predicted to arrive until the training task has left. Of
    such nodes it takes the one with the shortest response. When there is none it waits until the
    next request in flight has ended, or until there is room when none is in flight; an idle node
    takes it then in any case, so that training always runs in the end.

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
        state = fresh(instance.cluster.nodes, instance.cluster.stages, instance.tasks)
        unit = instance.slo_unit_s
        state[SHARE], state[WEIGHT] = self.share, 1 / self.window
        state[SLO] = inf if unit is None or np.isnan(unit) else self.slo_units * unit
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the shortest response; for training, among nodes that keep within the budget."""
        nodes, stages = view.memory_bytes.shape
        trains = view.training[task] == 1
        seconds = state[STAGE_S]
        best, earliest = -1, inf
        # The two nodes that would answer the next request first, were it not for this task.
        first, first_s, second_s = -1, inf, inf
        for node in range(nodes):
            if trains:
                response = next_response(view, state, node, seconds, now_s, -1)
                if response < first_s:
                    first, first_s, second_s = node, response, first_s
                elif response < second_s:
                    second_s = response
            if not fits(view, node, task):
                continue
            predict(view, state, node, task, now_s)
            end = end_s(view, state, node)
            if end < earliest:
                best, earliest = node, end
        if not trains or best < 0:
            return max(best, 0)
        best, earliest, again_s = -1, inf, inf
        for node in range(nodes):
            if not fits(view, node, task):
                continue
            idle_s = idle_from(view, state, node)
            if state[OPEN] == 0 and idle_s <= now_s:
                return node
            at, head = node_at(node), gpu_at(view, node, 0)
            drift = state[gpu_at(view, node, stages - 1) + DRIFT]
            if state[at + OPEN_HERE] > 0 and state[at + TIGHTEST] < drift:
                continue
            behind = next_response(view, state, node, seconds, now_s, task)
            response = min(behind, second_s if node == first else first_s)
            coming = (state[head + FINISH] - now_s) / max(state[GAP_S], seconds / nodes)
            over_s = response + coming * seconds / nodes - state[BUDGET_S]
            end = end_s(view, state, node)
            if over_s > 0:
                again_s = min(again_s, idle_s, now_s + over_s)
            elif end < earliest:
                best, earliest = node, end
        if best >= 0:
            return best
        if state[OPEN] > 0:
            return DEFER_INFERENCE
        state[0] = max(again_s, now_s + SHORTEST_WAIT_S)
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
        """Keep the forecast, the slack of open requests, and what the next one will be like."""
        follow(kind, time_s, task, node, phase, stage, view, state)
        if view.training[task]:
            return 0
        stages = view.memory_bytes.shape[1]
        at = node_at(node)
        if kind == SEES_ASSIGN:
            slo_s = state[SLO] if isinf(view.slo_s[task]) else view.slo_s[task]
            mean_s = 0.0
            for s in range(stages):
                mean_s += view.forward_s[view.node_class[node], task, s] / stages
            weight = max(state[WEIGHT], 1 / (state[SEEN] + 1))
            if state[SEEN] > 0:
                gap_s = time_s - state[LAST_S]
                state[GAP_S] += max(state[WEIGHT], 1 / state[SEEN]) * (gap_s - state[GAP_S])
            state[STAGE_S] += weight * (mean_s - state[STAGE_S])
            budget_s = state[SHARE] * slo_s
            if state[SEEN] > 0 and not isinf(budget_s):
                budget_s = state[BUDGET_S] + weight * (budget_s - state[BUDGET_S])
            state[BUDGET_S] = budget_s
            state[SEEN] += 1
            state[LAST_S] = time_s
            state[OPEN] += 1
            slack = view.release_s[task] + slo_s - end_s(view, state, node)
            slack += state[gpu_at(view, node, stages - 1) + DRIFT]
            if state[at + OPEN_HERE] == 0 or slack < state[at + TIGHTEST]:
                state[at + TIGHTEST] = slack
            state[at + OPEN_HERE] += 1
        elif kind == SEES_DROP or (phase == FORWARD and stage == stages - 1):
            state[OPEN] -= 1
            state[at + OPEN_HERE] -= 1
        return 0
