"""Placement rules LeMix is compared with; none of them defers.

Round robin, random, least utilised and the static split are the published baselines (pejoule/LeMix,
a87f280); joining the shortest queue, power of two choices and least work left are the usual ones of
queueing theory. ``nodes`` restricts a rule to the first nodes of the cluster: the published "+"
variants take as many as LeMix used.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np

from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.view import View
from lemix_opt.instance import Instance
from solvers.online.load import (
    NODES_USED,
    OPEN,
    PARAMETER,
    WORK,
    extra_at,
    fresh,
    ignore,
    keep,
    keep_memory,
    memory_at,
    node_at,
)


@dataclass(frozen=True)
class _Rule(CompiledPolicy):
    """Keeps the books; subclasses choose the node."""

    nodes: int | None = None

    observes: ClassVar[tuple[str, ...]] = ("assign", "end", "drop")
    observe_function = staticmethod(keep)

    def __post_init__(self) -> None:
        if self.nodes is not None:
            whole("nodes", self.nodes, minimum=1)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return the books of an idle cluster."""
        return fresh(instance, self.nodes)


@dataclass(frozen=True)
class RoundRobin(_Rule):
    """`mix-rr`: node = task id modulo the number of nodes, as published."""

    observes = ()
    observe_function = staticmethod(ignore)

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the next node in turn."""
        return task % int(state[NODES_USED])


@dataclass(frozen=True)
class Random(_Rule):
    """`random`: every node is equally likely."""

    observes = ()
    observe_function = staticmethod(ignore)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Draw a node for every task."""
        state = fresh(instance, self.nodes, instance.tasks)
        if instance.tasks:
            state[-instance.tasks :] = rng.integers(int(state[NODES_USED]), size=instance.tasks)
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the node that was drawn."""
        return int(state[extra_at(view) + task])


@dataclass(frozen=True)
class PowerOfTwo(_Rule):
    """`power-of-two`: of two different nodes drawn at random, the one with fewer open tasks."""

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Draw two nodes for every task."""
        tasks = instance.tasks
        state = fresh(instance, self.nodes, 2 * tasks)
        nodes = int(state[NODES_USED])
        if tasks:
            first = rng.integers(nodes, size=tasks)
            other = (first + 1 + rng.integers(max(nodes - 1, 1), size=tasks)) % nodes
            state[-2 * tasks :] = np.column_stack([first, other]).reshape(-1)
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the shorter queue, the one drawn first on ties."""
        at = extra_at(view) + 2 * task
        first, other = int(state[at]), int(state[at + 1])
        return other if state[node_at(other) + OPEN] < state[node_at(first) + OPEN] else first


@dataclass(frozen=True)
class LeastUtilised(_Rule):
    """`mix-luf`: least mean GPU memory occupancy, first node on ties, as published."""

    observes = ("start", "end")
    observe_function = staticmethod(keep_memory)

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the node with the lowest occupancy."""
        best, least = 0, inf
        for node in range(int(state[NODES_USED])):
            share = 0.0
            for s in range(view.memory_bytes.shape[1]):
                share += state[memory_at(view, node, s)] / view.memory_bytes[node, s]
            if share < least:
                best, least = node, share
        return best


@dataclass(frozen=True)
class ShortestQueue(_Rule):
    """`jsq`: fewest tasks placed and not yet ended, first node on ties."""

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the node with the fewest open tasks."""
        best = 0
        for node in range(1, int(state[NODES_USED])):
            if state[node_at(node) + OPEN] < state[node_at(best) + OPEN]:
                best = node
        return best


@dataclass(frozen=True)
class LeastWork(_Rule):
    """`least-work-left`: fewest predicted GPU seconds not yet ended, first node on ties."""

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the node with the least predicted work."""
        best = 0
        for node in range(1, int(state[NODES_USED])):
            if state[node_at(node) + WORK] < state[node_at(best) + WORK]:
                best = node
        return best


@dataclass(frozen=True)
class Separate(CompiledPolicy):
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

    observes = ()
    observe_function = staticmethod(ignore)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Note how many nodes serve and where those that train begin."""
        serving, learning = self.parts(instance)
        state = fresh(instance, len(serving) or None)
        state[PARAMETER] = learning.start
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the next node in turn of the task's part."""
        if not view.training[task]:
            return task % int(state[NODES_USED])
        first = int(state[PARAMETER])
        return first + task % (view.node_class.size - first)
