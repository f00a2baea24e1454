"""Placement rules LeMix is compared with; none of them defers.

Round robin, random, least utilised and the static split are the published baselines (pejoule/LeMix,
a87f280); joining the shortest queue and least work left are the usual ones of queueing theory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.instance import Instance
from lemix_opt.policy import Assign, BatchObserved, Event
from lemix_opt.schedule import FORWARD


@dataclass
class Load:
    """What the rules have observed.

    Parameters
    ----------
    instance : Instance
        Tasks and predicted costs.
    rng : numpy.random.Generator
        Source of randomness of the run.
    memory : ndarray, shape (N, S)
        Bytes in use on every GPU at its last event.
    open_tasks : ndarray of int, shape (N,)
        Tasks placed and not yet ended.
    work_s : ndarray, shape (N,)
        Predicted GPU seconds placed and not yet ended.
    left : dict
        Operations every placed task still has to end.
    """

    instance: Instance
    rng: np.random.Generator
    memory: FloatArray
    open_tasks: FloatArray
    work_s: FloatArray
    left: dict[int, int] = field(default_factory=dict)


def _seconds(instance: Instance, node: int, task: int, phase: int, stage: int) -> float:
    kind = instance.cluster.node_class[node]
    source = instance.costs.forward_s if phase == FORWARD else instance.costs.backward_s
    return float(source[kind, task, stage])


@dataclass(frozen=True)
class _Rule:
    """Keeps the books; subclasses choose the node."""

    def start(self, instance: Instance, rng: np.random.Generator) -> Load:
        """Open the books of an idle cluster."""
        nodes = instance.cluster.nodes
        return Load(instance, rng, instance.resident_bytes.copy(), np.zeros(nodes), np.zeros(nodes))

    def observe(self, state: Load, event: Event | BatchObserved) -> None:
        """Count what was placed, started, ended and dropped."""
        if isinstance(event, BatchObserved):
            return
        instance, node, task = state.instance, event.node, event.task
        stages = range(instance.cluster.stages)
        phases = 2 if instance.workload.is_training[task] else 1
        if event.kind == "assign":
            state.open_tasks[node] += 1
            state.left[task] = phases * len(stages)
            state.work_s[node] += sum(
                _seconds(instance, node, task, p, s) for p in range(phases) for s in stages
            )
            return
        if event.kind == "drop":
            state.open_tasks[node] -= 1
            return
        state.memory[node, event.stage] = event.memory_bytes
        if event.kind == "end" and event.phase < 2:
            state.work_s[node] -= _seconds(instance, node, task, event.phase, event.stage)
            state.left[task] -= 1
            if state.left[task] == 0:
                state.open_tasks[node] -= 1


@dataclass(frozen=True)
class RoundRobin(_Rule):
    """`mix-rr`: node = task id modulo the number of nodes, as published."""

    def decide(self, state: Load, now_s: float, task: int) -> Assign:
        """Take the next node in turn."""
        return Assign(task % state.instance.cluster.nodes)


@dataclass(frozen=True)
class Random(_Rule):
    """`random`: every node is equally likely."""

    def decide(self, state: Load, now_s: float, task: int) -> Assign:
        """Draw a node."""
        return Assign(int(state.rng.integers(state.instance.cluster.nodes)))


@dataclass(frozen=True)
class LeastUtilised(_Rule):
    """`mix-luf`: least mean GPU memory occupancy, first node on ties, as published."""

    def decide(self, state: Load, now_s: float, task: int) -> Assign:
        """Take the node with the lowest occupancy."""
        share = state.memory / state.instance.cluster.memory_bytes
        return Assign(int(np.argmin(share.mean(axis=1))))


@dataclass(frozen=True)
class ShortestQueue(_Rule):
    """`jsq`: fewest tasks placed and not yet ended, first node on ties."""

    def decide(self, state: Load, now_s: float, task: int) -> Assign:
        """Take the node with the fewest open tasks."""
        return Assign(int(np.argmin(state.open_tasks)))


@dataclass(frozen=True)
class LeastWork(_Rule):
    """`least-work-left`: fewest predicted GPU seconds not yet ended, first node on ties."""

    def decide(self, state: Load, now_s: float, task: int) -> Assign:
        """Take the node with the least predicted work."""
        return Assign(int(np.argmin(state.work_s)))


@dataclass(frozen=True)
class Separate(_Rule):
    """`separate`: nodes split between inference and training, round robin inside each part.

    The turn is the task id modulo the part's size, as published, so that kinds that strictly
    alternate use only every other node of an even part.

    Parameters
    ----------
    split : float, optional
        Share of the nodes that trains; the training share of the tasks when omitted. The numbers
        of nodes round half to even and leave both parts at least one node, as published.
    """

    split: float | None = None

    def __post_init__(self) -> None:
        if self.split is not None:
            floats("split", self.split, (), minimum=0, maximum=1)

    def parts(self, instance: Instance) -> tuple[range, range]:
        """Return the nodes for inference and for training."""
        nodes, training = instance.cluster.nodes, instance.workload.is_training
        share = self.split
        if share is None:
            share = float(training.mean()) if training.size else 0.0
        train = max(1, round(nodes * share)) if share > 0 else 0
        serve = max(1, nodes - train) if share < 1 else 0
        # A single node does both.
        return range(serve), range(serve, nodes) if serve < nodes else range(nodes)

    def decide(self, state: Load, now_s: float, task: int) -> Assign:
        """Take the next node in turn of the task's part."""
        serving, learning = self.parts(state.instance)
        chosen = learning if state.instance.workload.is_training[task] else serving
        chosen = chosen or range(state.instance.cluster.nodes)
        return Assign(chosen[task % len(chosen)])


@dataclass
class RatedLoad(Load):
    """The books of `Load` and the latest arrivals in seconds."""

    arrivals: deque[float] = field(default_factory=deque)


@dataclass(frozen=True)
class DynamicSeparate(_Rule):
    """`separate-dynamic`: a quarter of the nodes serves at low request rate, else a half.

    The published code looks the rate up in the schedule of its own workload; here it is the rate
    of the latest requests, so that the rule works on any arrivals.

    Parameters
    ----------
    rate_per_s : float, default 15
        Requests per second above which half of the nodes serve, as published.
    requests : int, default 8
        Latest requests the rate is measured over.
    """

    rate_per_s: float = 15.0
    requests: int = 8

    def __post_init__(self) -> None:
        floats("rate_per_s", self.rate_per_s, (), above=0)
        whole("requests", self.requests, minimum=2)

    def start(self, instance: Instance, rng: np.random.Generator) -> RatedLoad:
        """Open the books of an idle cluster without arrivals."""
        books = super().start(instance, rng)
        return RatedLoad(
            instance,
            rng,
            books.memory,
            books.open_tasks,
            books.work_s,
            arrivals=deque(maxlen=self.requests),
        )

    def decide(self, state: RatedLoad, now_s: float, task: int) -> Assign:
        """Take the next node in turn of the part that the present rate gives to the task's kind."""
        nodes = state.instance.cluster.nodes
        training = bool(state.instance.workload.is_training[task])
        if not training:
            state.arrivals.append(now_s)
        seen = state.arrivals
        span_s = now_s - seen[0] if seen else 0.0
        fast = len(seen) > 1 and len(seen) - 1 > self.rate_per_s * span_s
        serve = max(1, nodes // 2 if fast else nodes // 4)
        chosen = range(serve, nodes) if training and serve < nodes else range(serve)
        return Assign(chosen[task % len(chosen)])
