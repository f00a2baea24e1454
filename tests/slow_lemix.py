"""LeMix with lists and dictionaries: what the compiled policy must agree with.

A stage begins after the one before it has ended, scoring changes nothing, and a deferred training
task always runs in the end. How idleness and response are weighed is a parameter, since the
published sign rewards long responses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from slow_timeline import NodeTimeline, Prediction

from lemix_opt.checks import choice, floats
from lemix_opt.errors import InfeasibleError
from lemix_opt.instance import Instance
from lemix_opt.policy import Assign, BatchObserved, Defer, Event
from solvers.online.length_statistics import LengthStatistics

READINGS = ("consolidate", "inverse_idleness", "subtraction")


class Candidate(NamedTuple):
    """One node the task could go to, with the predicted response and idleness of its score."""

    node: int
    prediction: Prediction
    response_s: float
    idleness_s: float


@dataclass
class LemixState:
    """Timelines and length statistics of all nodes, and what is in flight."""

    instance: Instance
    timelines: list[NodeTimeline]
    lengths: list[LengthStatistics]
    fits: list[list[bool]]
    forward_s: list[list[list[float]]]
    backward_s: list[list[list[float]]]
    hop_s: list[list[list[float]]]
    training: list[bool]
    slo_s: list[float]
    inference_open: set[int] = field(default_factory=set)
    scored: dict[int, Prediction] = field(default_factory=dict)


@dataclass(frozen=True)
class Lemix:
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

    def start(self, instance: Instance, rng: np.random.Generator) -> LemixState:
        """Open empty books."""
        work, costs = instance.workload, instance.costs
        unit = instance.slo_unit_s
        default = np.inf if unit is None or np.isnan(unit) else self.slo_units * unit
        nodes = instance.cluster.nodes
        return LemixState(
            instance,
            [NodeTimeline(instance.cluster.stages) for _ in range(nodes)],
            [LengthStatistics() for _ in range(nodes)],
            instance.fits().tolist(),
            costs.forward_s.tolist(),
            costs.backward_s.tolist(),
            costs.hop_s.tolist(),
            work.is_training.tolist(),
            np.where(np.isfinite(work.slo_s), work.slo_s, default).tolist(),
        )

    def decide(self, state: LemixState, now_s: float, task: int) -> Assign | Defer:
        """Score every node the task fits on; place on the best one, or put training off."""
        candidates = self._candidates(state, now_s, task)
        if self.reading == "consolidate":
            best = self._consolidated(state, task, candidates)
        else:
            length = int(state.instance.workload.prompt_tokens[task])
            best = max(
                candidates, key=lambda c: self._score(c, state.lengths[c.node].density(length))
            )
        late = best.response_s > state.slo_s[task]
        if state.training[task] and self.prioritization and late and state.inference_open:
            return Defer("next_inference_done")
        state.scored = {c.node: c.prediction for c in candidates}
        return Assign(best.node)

    def _candidates(self, state: LemixState, now_s: float, task: int) -> list[Candidate]:
        instance = state.instance
        trains = state.training[task]
        found = []
        for node, timeline in enumerate(state.timelines):
            if not state.fits[task][node]:
                continue
            kind = int(instance.cluster.node_class[node])
            backward = state.backward_s[kind][task] if trains else None
            predicted = timeline.predict(
                now_s, state.forward_s[kind][task], backward, state.hop_s[kind][task]
            )
            last = timeline.last_release_s
            gap = 0.0 if last is None else now_s - last
            idle = max(predicted.idleness_s / timeline.stages - gap, self.epsilon)
            found.append(
                Candidate(
                    node,
                    predicted,
                    predicted.end_s - now_s,
                    idle,
                )
            )
        if not found:
            raise InfeasibleError(f"task {task} fits on no node")
        return found

    def _score(self, candidate: Candidate, consistency: float) -> float:
        weighted = self.beta * consistency
        if self.reading == "subtraction":
            return -candidate.idleness_s + weighted - self.alpha * candidate.response_s
        return (1 / candidate.idleness_s + weighted) / (self.alpha * candidate.response_s)

    def _consolidated(self, state: LemixState, task: int, candidates: list[Candidate]) -> Candidate:
        wanted = self.slack * state.slo_s[task]
        for candidate in candidates:
            used = state.timelines[candidate.node].last_release_s is not None
            if used and candidate.response_s <= wanted:
                return candidate
        return min(candidates, key=lambda c: c.response_s)

    def observe(self, state: LemixState, event: Event | BatchObserved) -> None:
        """Commit placements and correct predictions by what has ended."""
        if isinstance(event, BatchObserved):
            return
        task, timeline = event.task, state.timelines[event.node]
        if event.kind == "assign":
            self._commit(state, event)
        elif event.kind == "drop":
            timeline.dropped(task)
            state.inference_open.discard(task)
        elif event.kind == "end":
            timeline.ended(task, event.phase, event.stage, event.time_s)
            if event.stage == timeline.stages - 1:
                state.inference_open.discard(task)

    def _commit(self, state: LemixState, event: Event) -> None:
        task, node = event.task, event.node
        prediction = state.scored.get(node)
        if prediction is None:
            # The placement was forced on a node that was not scored.
            kind = int(state.instance.cluster.node_class[node])
            prediction = state.timelines[node].predict(
                event.time_s,
                state.forward_s[kind][task],
                state.backward_s[kind][task] if state.training[task] else None,
                state.hop_s[kind][task],
            )
        state.timelines[node].place(task, event.time_s, prediction)
        state.scored = {}
        state.lengths[node].add(float(state.instance.workload.prompt_tokens[task]))
        if not state.training[task]:
            state.inference_open.add(task)
