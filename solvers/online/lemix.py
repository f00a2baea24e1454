"""`lemix`: the policy that the LeMix paper (RTSS 2025) means, without the published code's quirks.

A stage begins after the one before it has ended, scoring changes nothing, and a deferred training
task always runs in the end. How idleness and response are weighed is a parameter, since the
published sign rewards long responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isinf, isnan, pi, sqrt
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, choice, floats
from lemix_opt.engine.books import NONE
from lemix_opt.engine.codes import DEFER_INFERENCE, SEES_ASSIGN, SEES_DROP
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.view import View
from lemix_opt.instance import Instance
from lemix_opt.schedule import FORWARD
from solvers.online.forecast import (
    LAST_RELEASE,
    NODE_OWN,
    OWN,
    end_s,
    fits,
    follow,
    fresh,
    node_at,
    predict,
)

READINGS = ("consolidate", "inverse_idleness", "subtraction")
CONSOLIDATE, INVERSE_IDLENESS, SUBTRACTION = range(len(READINGS))
READING, ALPHA, BETA, EPSILON, SLACK, SLO, PRIORITIZES, OPEN = range(OWN, OWN + 8)
# Columns per node beside those of the forecast: Welford's statistics of the lengths placed there.
COUNT, MEAN, SQUARES = range(NODE_OWN, NODE_OWN + 3)


@inlined
def slo_of(view: View, state: Any, task: int) -> float:
    """Return the SLO a task is judged by, in seconds."""
    return float(state[SLO]) if isinf(view.slo_s[task]) else float(view.slo_s[task])


@inlined
def consistency(state: Any, node: int, tokens: float) -> float:
    """Return the normal density of a length in 1/token (LeMix's LC); 0 without deviation."""
    at = node_at(node)
    count, squares = state[at + COUNT], state[at + SQUARES]
    if count < 2 or squares <= 0:
        return 0.0
    deviation = sqrt(squares / count)
    z = (tokens - state[at + MEAN]) / deviation
    return exp(-0.5 * z * z) / (deviation * sqrt(2 * pi))


@dataclass(frozen=True)
class Lemix(CompiledPolicy):
    """LeMix as the paper means it.

    Parameters
    ----------
    reading : {"consolidate", "inverse_idleness", "subtraction"}, default "consolidate"
        How the terms are combined, with II idleness in seconds, LC length consistency in 1/token
        and RT predicted response in seconds.
        ``consolidate``: the first node in use that is predicted to answer within `slack` of the
        task's SLO; else the node of the shortest response.
        ``inverse_idleness``: largest (1/max(II/S − gap, ε) + β·LC) / (α·RT).
        ``subtraction``: largest −max(II/S − gap, ε) + β·LC − α·RT.
    alpha, beta, epsilon : float, default 0.15, 0.05, 0.2
        Weights; epsilon in seconds.
    slack : float, default 0.5
        Share of the SLO that ``consolidate`` fills.
    slo_units : float, default 5
        SLO of tasks that have none, in SLO units of the instance.
    prioritization : bool, default True
        Whether training whose predicted response exceeds the SLO waits until the next inference
        task in flight has ended. It is never turned away when none is in flight.
    """

    reading: str = "consolidate"
    alpha: float = 0.15
    beta: float = 0.05
    epsilon: float = 0.2
    slack: float = 0.5
    slo_units: float = 5.0
    prioritization: bool = True

    def __post_init__(self) -> None:
        choice("reading", self.reading, READINGS)
        floats("alpha", self.alpha, (), above=0)
        floats("beta", self.beta, (), minimum=0)
        floats("epsilon", self.epsilon, (), above=0)
        floats("slack", self.slack, (), above=0)
        floats("slo_units", self.slo_units, (), above=0)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return empty books and the parameters."""
        state = fresh(instance.cluster.nodes, instance.cluster.stages, instance.tasks)
        unit = instance.slo_unit_s
        state[READING] = READINGS.index(self.reading)
        state[ALPHA], state[BETA], state[EPSILON] = self.alpha, self.beta, self.epsilon
        state[SLACK] = self.slack
        state[SLO] = inf if unit is None or np.isnan(unit) else self.slo_units * unit
        state[PRIORITIZES] = self.prioritization
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Score every node the task fits on; choose the best one, or put training off."""
        nodes, stages = view.memory_bytes.shape
        reading = int(state[READING])
        slo_s = slo_of(view, state, task)
        best, best_score, best_response = NONE, -inf, inf
        for node in range(nodes):
            if not fits(view, node, task):
                continue
            idleness = predict(view, state, node, task, now_s)
            response = end_s(view, state, node) - now_s
            last = state[node_at(node) + LAST_RELEASE]
            if reading == CONSOLIDATE:
                if not isnan(last) and response <= state[SLACK] * slo_s:
                    best, best_response = node, response
                    break
                score = -response
            else:
                gap = 0.0 if isnan(last) else now_s - last
                idle = max(idleness / stages - gap, state[EPSILON])
                length = state[BETA] * consistency(state, node, view.prompt_tokens[task])
                if reading == SUBTRACTION:
                    score = -idle + length - state[ALPHA] * response
                else:
                    score = (1 / idle + length) / (state[ALPHA] * response)
            if score > best_score:
                best, best_score, best_response = node, score, response
        if view.training[task] and state[PRIORITIZES] and best_response > slo_s and state[OPEN] > 0:
            return DEFER_INFERENCE
        return best

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
        """Commit placements and correct predictions by what has ended."""
        serves = not view.training[task]
        follow(kind, time_s, task, node, phase, stage, view, state)
        if kind == SEES_ASSIGN:
            at = node_at(node)
            state[at + COUNT] += 1
            delta = view.prompt_tokens[task] - state[at + MEAN]
            state[at + MEAN] += delta / state[at + COUNT]
            state[at + SQUARES] += delta * (view.prompt_tokens[task] - state[at + MEAN])
            state[OPEN] += serves
        elif kind == SEES_DROP or (phase == FORWARD and stage == view.memory_bytes.shape[1] - 1):
            state[OPEN] -= serves
        return 0
