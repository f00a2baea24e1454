"""`lemix`: the policy that the LeMix paper (RTSS 2025) means, without the published code's quirks.

A stage begins after the one before it has ended, scoring changes nothing, and a deferred training
task always runs in the end. How idleness and response are weighed is a parameter, since the
published sign rewards long responses; `docs/lemix.md` compares the readings.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isnan, nan, pi, sqrt
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, choice, floats, whole
from lemix_opt.engine.books import NONE
from lemix_opt.engine.codes import SEES_ASSIGN
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.view import View, fits
from lemix_opt.instance import Instance
from solvers.online.forecast import (
    LAST_RELEASE,
    NODE_OWN,
    NOISE_S,
    choose,
    end_s,
    follow,
    fresh,
    idle_from,
    node_at,
    predict_backwards,
    predict_forwards,
    soonest,
)
from solvers.online.requests import (
    FREE,
    GAP_S,
    LAST_S,
    OPEN,
    SEEN,
    STAGE_S,
    excess,
    expect,
    note,
    put_off,
    quiet,
    slo_of,
)

READINGS = ("consolidate", "inverse_idleness", "subtraction")
CONSOLIDATE, INVERSE_IDLENESS, SUBTRACTION = range(len(READINGS))
READING, ALPHA, BETA, EPSILON, SLACK, PRIORITIZES = range(FREE, FREE + 6)
TARGET, MEMORY_S, TRAINED, TRAINED_AT_S = range(FREE + 6, FREE + 10)
# Columns per node beside those of the forecast: Welford's statistics of the lengths placed there.
COUNT, MEAN, SQUARES = range(NODE_OWN, NODE_OWN + 3)


@inlined
def trained_lately(state: Any, now_s: float) -> float:
    """Return the training placed lately, in nodes that it keeps busy; the past fades away."""
    return state[TRAINED] * exp((state[TRAINED_AT_S] - now_s) / state[MEMORY_S])


@inlined
def active_nodes(view: View, state: Any, now_s: float) -> int:
    """Return how many nodes are in use: as many as the present load keeps busy to the target.

    Requests count with their present rate, training only as far as it has lasted: it comes as
    fast as it is let in, so that a burst of it says little about the load.
    """
    nodes, load = view.node_class.size, 0.0
    if isnan(state[MEMORY_S]):
        return nodes
    enough = nodes * state[TARGET]
    if state[SEEN] > 1:
        gap_s = max(state[GAP_S], now_s - state[LAST_S])
        if quiet(state, now_s) or state[STAGE_S] >= enough * gap_s:
            return nodes
        load = state[STAGE_S] / gap_s
    # 1 − x is below exp(−x), which takes its time.
    faded = 1 - (now_s - state[TRAINED_AT_S]) / state[MEMORY_S]
    if load + state[TRAINED] * faded >= enough:
        return nodes
    load += trained_lately(state, now_s)
    return nodes if load >= enough else 1 + int(load / state[TARGET])


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


@inlined
def count_length(state: Any, node: int, tokens: float) -> None:
    """Take the length of a task placed on a node into the node's mean and deviation."""
    at = node_at(node)
    state[at + COUNT] += 1
    delta = tokens - state[at + MEAN]
    state[at + MEAN] += delta / state[at + COUNT]
    state[at + SQUARES] += delta * (tokens - state[at + MEAN])


@inlined
def best_score(view: View, state: Any, reading: int, task: int, now_s: float) -> int:
    """Return the node of the highest score, the first one on ties; −1 if the task fits nowhere."""
    stages = view.memory_bytes.shape[1]
    best, highest = NONE, -inf
    for node in range(view.node_class.size):
        if not fits(view, node, task):
            continue
        _, idleness = predict_forwards(view, state, node, task, now_s, inf)
        response = end_s(view, state, node) - now_s
        last = state[node_at(node) + LAST_RELEASE]
        gap = 0.0 if isnan(last) else now_s - last
        idle = max(idleness / stages - gap, state[EPSILON])
        length = state[BETA] * consistency(state, node, view.prompt_tokens[task])
        if reading == SUBTRACTION:
            score = -idle + length - state[ALPHA] * response
        else:
            score = (1 / idle + length) / (state[ALPHA] * response)
        if best == NONE or score - highest > NOISE_S * abs(score):
            best, highest = node, score
    return best


@dataclass(frozen=True)
class Lemix(CompiledPolicy):
    """LeMix as the paper means it.

    Parameters
    ----------
    reading : {"consolidate", "inverse_idleness", "subtraction"}, default "consolidate"
        How the terms are combined, with II idleness in seconds, LC length consistency in 1/token
        and RT predicted response in seconds.
        ``consolidate``: the node of the shortest RT among the first so many that the present load
        keeps busy to `target`; a request that none of them is predicted to answer within `slack`
        of its SLO goes to the shortest RT of all. Training uses all nodes while no request is in
        flight or expected.
        ``inverse_idleness``: largest (1/max(II/S − gap, ε) + β·LC) / (α·RT).
        ``subtraction``: largest −max(II/S − gap, ε) + β·LC − α·RT.
    alpha, beta, epsilon : float, default 0.15, 0.05, 0.2
        Weights; epsilon in seconds.
    slack : float, default 0.5
        Share of the SLO within which requests are to be answered, the next one included; the
        rest is left to what is not predicted.
    target : float, default 0.5
        Busy share of the nodes in use that ``consolidate`` aims at.
    memory_units : float, default 100
        SLO units after which training that was placed counts only 1/e of its work as load.
    window : int, default 16
        Requests over which rate, length and SLO of the next one are averaged, with exponentially
        falling weights.
    slo_units : float, default 5
        SLO of requests that have none, in SLO units of the instance.
    prioritization : bool, default True
        Whether training waits while, behind it, the next request is predicted to be answered
        later than `slack` of its SLO allows (`solvers.online.requests`): until a request in flight
        has ended or, when none is, until there is room. An idle node takes it then in any case.

    Notes
    -----
    `target` and `memory_units` were chosen on the grid of ``lemix study readings`` for 4 nodes of
    2 stages. Waiting training tasks are asked again at the end of every request; in the closed
    loops of the paper at most one waits.
    """

    reading: str = "consolidate"
    alpha: float = 0.15
    beta: float = 0.05
    epsilon: float = 0.2
    slack: float = 0.5
    target: float = 0.5
    memory_units: float = 100.0
    window: int = 16
    slo_units: float = 5.0
    prioritization: bool = True

    def __post_init__(self) -> None:
        choice("reading", self.reading, READINGS)
        floats("alpha", self.alpha, (), above=0)
        floats("beta", self.beta, (), minimum=0)
        floats("epsilon", self.epsilon, (), above=0)
        floats("slack", self.slack, (), above=0)
        floats("target", self.target, (), above=0)
        floats("memory_units", self.memory_units, (), above=0)
        whole("window", self.window, minimum=1)
        floats("slo_units", self.slo_units, (), above=0)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return empty books and the parameters."""
        state = fresh(instance)
        expect(state, instance, self.slo_units, self.window)
        unit = instance.slo_unit_s
        state[READING] = READINGS.index(self.reading)
        state[ALPHA], state[BETA], state[EPSILON] = self.alpha, self.beta, self.epsilon
        state[SLACK] = self.slack
        state[PRIORITIZES] = self.prioritization
        state[TARGET] = self.target
        state[MEMORY_S] = nan if unit is None else self.memory_units * unit
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Score the nodes the task fits on; choose the best one, or put training off."""
        task = index(task)
        reading, nodes = int(state[READING]), view.node_class.size
        trains = view.training[task] == 1
        if reading == CONSOLIDATE:
            active = active_nodes(view, state, now_s)
            best = soonest(view, state, 0, active, task, now_s)
            wanted_s = inf if trains else state[SLACK] * slo_of(view, state, task)
            if active < nodes and (
                best == NONE or end_s(view, state, best) - now_s > wanted_s + NOISE_S
            ):
                other = soonest(view, state, active, nodes, task, now_s)
                if best == NONE or (
                    other != NONE and end_s(view, state, other) < end_s(view, state, best) - NOISE_S
                ):
                    best = other
        else:
            best = best_score(view, state, reading, task, now_s)
        if not trains or best == NONE or not state[PRIORITIZES]:
            return 0 if best == NONE else choose(state, best, task, now_s)
        if state[SEEN] == 0:
            return choose(state, best, task, now_s)
        # With requests in flight nothing hangs on when the node is idle.
        idle_s = inf if state[OPEN] > 0 else idle_from(view, state, best)
        if idle_s <= now_s + NOISE_S:
            return choose(state, best, task, now_s)
        predict_backwards(view, state, best, task)
        over_s = excess(view, state, best, task, now_s, state[SLACK])
        if over_s <= NOISE_S:
            return choose(state, best, task, now_s)
        return put_off(state, now_s, min(idle_s, now_s + over_s))

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
        follow(kind, time_s, task, node, phase, stage, view, state)
        note(kind, time_s, task, node, phase, stage, view, state)
        if kind == SEES_ASSIGN:
            if state[READING] != CONSOLIDATE:
                count_length(state, node, view.prompt_tokens[task])
            if view.training[task]:
                work_s = 0.0
                for s in range(view.memory_bytes.shape[1]):
                    work_s += view.forward_s[view.node_class[node], task, s]
                    work_s += view.backward_s[view.node_class[node], task, s]
                share = work_s / view.memory_bytes.shape[1] / state[MEMORY_S]
                state[TRAINED] = trained_lately(state, time_s) + share
                state[TRAINED_AT_S] = time_s
        return 0
