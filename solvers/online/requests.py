"""What the next request will be like, and whether training leaves it time to be answered.

Columns of the header of a forecast's state that a policy reserves for it; times in seconds.
"""

from __future__ import annotations

from math import ceil, inf, isinf
from typing import Any

import numpy as np

from lemix_opt.engine.books import NONE
from lemix_opt.engine.codes import DEFER_INFERENCE, DEFER_TIME, SEES_ASSIGN, SEES_DROP
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.view import View
from lemix_opt.instance import Instance
from lemix_opt.schedule import FORWARD
from solvers.online.forecast import FINISH, NOISE_S, OWN, gpu_at, next_response

# Requests in flight and seen so far, when the last one came, and averages over the latest:
# gap, forward on one stage, SLO. `WEIGHT` is that of a new request, `SLO` that of one without.
OPEN, SEEN, LAST_S, GAP_S, STAGE_S, SLO_S, WEIGHT, SLO, FREE = range(OWN, OWN + 9)
WAITS_PER_S = 1e6
SHORTEST_WAIT_S = 1 / WAITS_PER_S
QUIET_GAPS = 4.0


def expect(state: Any, instance: Instance, slo_units: float, window: int) -> None:
    """Prepare the columns; averages weigh the latest `window` requests."""
    unit = instance.slo_unit_s
    state[SLO] = inf if unit is None or np.isnan(unit) else slo_units * unit
    state[WEIGHT] = 1 / window


@inlined
def slo_of(view: View, state: Any, task: int) -> float:
    """Return the SLO a task is judged by, in seconds."""
    return float(state[SLO]) if isinf(view.slo_s[task]) else float(view.slo_s[task])


@inlined
def note(
    kind: int, time_s: float, task: int, node: int, phase: int, stage: int, view: View, state: Any
) -> None:
    """Count requests in flight and average over those that come."""
    stages = view.memory_bytes.shape[1]
    if view.training[task]:
        return
    if kind == SEES_ASSIGN:
        mean_s = 0.0
        for s in range(stages):
            mean_s += view.forward_s[view.node_class[node], task, s] / stages
        seen = state[SEEN]
        weight = max(state[WEIGHT], 1 / (seen + 1))
        if seen > 0:
            gap_s = time_s - state[LAST_S]
            state[GAP_S] += max(state[WEIGHT], 1 / seen) * (gap_s - state[GAP_S])
        state[STAGE_S] += weight * (mean_s - state[STAGE_S])
        slo_s = slo_of(view, state, task)
        if seen > 0 and not isinf(slo_s):
            slo_s = state[SLO_S] + weight * (slo_s - state[SLO_S])
        state[SLO_S] = slo_s
        state[SEEN] += 1
        state[LAST_S] = time_s
        state[OPEN] += 1
    elif kind == SEES_DROP or (phase == FORWARD and stage == stages - 1):
        state[OPEN] -= 1


@inlined
def quiet(state: Any, now_s: float) -> bool:
    """Whether no request is in flight or expected: none came for several mean gaps, or ever."""
    return state[OPEN] == 0 and (
        state[SEEN] == 0 or now_s - state[LAST_S] > QUIET_GAPS * state[GAP_S]
    )


@inlined
def excess(view: View, state: Any, node: int, task: int, now_s: float, share: float) -> float:
    """Return by how many seconds the next request would exceed its budget behind a training task.

    At least one request has been seen. The next one is answered by the best node, behind the
    requests that are predicted to arrive until the training task has left. Once a node answers
    it in time, the others are not looked at.

    Parameters
    ----------
    node, task : int
        Where the training task was predicted last.
    share : float
        Budget in parts of the SLO.
    """
    nodes = view.node_class.size
    each_s = state[STAGE_S] / nodes
    queue_s = 0.0
    if not quiet(state, now_s):
        leaves_s = state[gpu_at(view, node, 0) + FINISH] - now_s
        queue_s = leaves_s * each_s / max(state[GAP_S], each_s)
    over_s = inf
    for turn in range(nodes):
        # Its own node last: there the training is in the way.
        other = (node + 1 + turn) % nodes
        behind = task if other == node else NONE
        response_s = next_response(view, state, other, state[STAGE_S], now_s, behind)
        over_s = min(over_s, response_s + queue_s - share * state[SLO_S])
        if over_s <= NOISE_S:
            break
    return over_s


@inlined
def put_off(state: Any, now_s: float, again_s: float) -> int:
    """Return the answer for training that has to wait: for a request in flight, else a moment.

    Moments are whole microseconds, so that one that is the end of an operation, summed up in
    another order, is that end exactly and not a rounding error before or after it.
    """
    if state[OPEN] > 0:
        return DEFER_INFERENCE
    soonest_s = max(again_s, now_s + SHORTEST_WAIT_S)
    state[0] = ceil((soonest_s - NOISE_S) * WAITS_PER_S) / WAITS_PER_S
    return DEFER_TIME
