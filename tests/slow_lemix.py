"""LeMix with lists and dictionaries: what the compiled policy must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, exp
from typing import NamedTuple

import numpy as np
from slow_timeline import NOISE_S, NodeTimeline, Prediction

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


def first_soonest(candidates: list[Candidate]) -> Candidate:
    """Return the candidate of the shortest response, the first one on ties."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.response_s < best.response_s - NOISE_S:
            best = candidate
    return best


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
    in_flight: set[int] = field(default_factory=set)
    requests: int = 0
    last_s: float = 0.0
    gap_s: float = 0.0
    stage_s: float = 0.0
    slo_mean_s: float = 0.0
    trained: float = 0.0
    trained_at_s: float = 0.0

    def quiet(self, now_s: float) -> bool:
        """Whether no request is in flight or expected."""
        if self.in_flight:
            return False
        return self.requests == 0 or now_s - self.last_s > 4 * self.gap_s


@dataclass(frozen=True)
class Lemix:
    """The same parameters and rules as `solvers.online.lemix.Lemix`."""

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
            best = self._consolidated(state, now_s, task, candidates)
        else:
            length = int(state.instance.workload.prompt_tokens[task])
            scores = [self._score(c, state.lengths[c.node].density(length)) for c in candidates]
            place = 0
            for k, score in enumerate(scores):
                if score - scores[place] > NOISE_S * abs(score):
                    place = k
            best = candidates[place]
        if not (state.training[task] and self.prioritization):
            return Assign(best.node)
        return self._carefully(state, now_s, best)

    def _carefully(self, state: LemixState, now_s: float, best: Candidate) -> Assign | Defer:
        idle_s = state.timelines[best.node].idle_from()
        if not state.in_flight and idle_s <= now_s + NOISE_S:
            return Assign(best.node)
        if not state.requests:
            return Assign(best.node)
        each_s = state.stage_s / len(state.timelines)
        leaves_s = best.prediction.backward_end[0]
        over_s = min(
            timeline.next_response(
                state.stage_s, now_s, best.prediction if node == best.node else None
            )
            for node, timeline in enumerate(state.timelines)
        )
        if not state.quiet(now_s):
            over_s += (leaves_s - now_s) * each_s / max(state.gap_s, each_s)
        over_s -= self.slack * state.slo_mean_s
        if over_s <= NOISE_S:
            return Assign(best.node)
        if state.in_flight:
            return Defer("next_inference_done")
        again_s = max(min(idle_s, now_s + over_s), now_s + 1e-6)
        return Defer("time", ceil((again_s - NOISE_S) * 1e6) / 1e6)

    def _trained(self, state: LemixState, now_s: float) -> float:
        memory_s = self.memory_units * float(state.instance.slo_unit_s or np.nan)
        return state.trained * exp((state.trained_at_s - now_s) / memory_s)

    def _active(self, state: LemixState, now_s: float) -> int:
        nodes = len(state.timelines)
        if np.isnan(state.instance.slo_unit_s or np.nan):
            return nodes
        load = self._trained(state, now_s)
        if state.requests > 1:
            gap_s = max(state.gap_s, now_s - state.last_s)
            if state.quiet(now_s) or gap_s == 0:
                return nodes
            load += state.stage_s / gap_s
        return min(nodes, 1 + int(load / self.target))

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

    def _consolidated(
        self, state: LemixState, now_s: float, task: int, candidates: list[Candidate]
    ) -> Candidate:
        wanted = self.slack * state.slo_s[task]
        active = [c for c in candidates if c.node < self._active(state, now_s)]
        if active:
            best = first_soonest(active)
            if state.training[task] or best.response_s <= wanted + NOISE_S:
                return best
        return first_soonest(candidates)

    def observe(self, state: LemixState, event: Event | BatchObserved) -> None:
        """Commit placements and correct predictions by what has ended."""
        if isinstance(event, BatchObserved):
            return
        task, timeline = event.task, state.timelines[event.node]
        if event.kind == "assign":
            self._commit(state, event)
        elif event.kind == "drop":
            timeline.dropped(task)
            state.in_flight.discard(task)
        elif event.kind == "end":
            timeline.ended(task, event.phase, event.stage, event.time_s)
            if event.stage == timeline.stages - 1:
                state.in_flight.discard(task)

    def _commit(self, state: LemixState, event: Event) -> None:
        task, node = event.task, event.node
        kind = int(state.instance.cluster.node_class[node])
        forward, backward = state.forward_s[kind][task], state.backward_s[kind][task]
        stages = len(forward)
        prediction = state.timelines[node].predict(
            event.time_s,
            forward,
            backward if state.training[task] else None,
            state.hop_s[kind][task],
        )
        state.timelines[node].place(task, event.time_s, prediction)
        state.lengths[node].add(float(state.instance.workload.prompt_tokens[task]))
        if state.training[task]:
            unit = float(state.instance.slo_unit_s or np.nan)
            work_s = 0.0
            for s in range(stages):
                work_s += forward[s]
                work_s += backward[s]
            before = self._trained(state, event.time_s)
            state.trained = before + work_s / stages / (self.memory_units * unit)
            state.trained_at_s = event.time_s
            return
        state.in_flight.add(task)
        weight = max(1 / self.window, 1 / (state.requests + 1))
        if state.requests:
            gap_s = event.time_s - state.last_s
            state.gap_s += max(1 / self.window, 1 / state.requests) * (gap_s - state.gap_s)
        mean_s = 0.0
        for s in range(stages):
            mean_s += forward[s] / stages
        state.stage_s += weight * (mean_s - state.stage_s)
        if state.requests and np.isfinite(state.slo_s[task]):
            state.slo_mean_s += weight * (state.slo_s[task] - state.slo_mean_s)
        else:
            state.slo_mean_s = state.slo_s[task]
        state.requests += 1
        state.last_s = event.time_s
