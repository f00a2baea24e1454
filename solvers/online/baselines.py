"""Placement rules LeMix is compared with; none of them defers.

Round robin, random, least utilised and the static split are the published baselines (pejoule/LeMix,
a87f280); joining the shortest queue, power of two choices and least work left are the usual ones of
queueing theory. ``nodes`` restricts a rule to the first nodes of the cluster: the published "+"
variants take as many as LeMix used.

Every rule passes over nodes that can never hold the task and does as if they were not there. The
published rules know no such nodes; where all tasks fit everywhere they place as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np

from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.view import View, fits
from lemix_opt.instance import Instance
from solvers.online.load import (
    NODES_USED,
    OPEN,
    PARAMETER,
    WORK,
    count_fitting,
    extra_at,
    fresh,
    ignore,
    in_turn,
    in_turn_of_part,
    keep,
    keep_memory,
    least_of,
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
    """`mix-rr`: node = task id modulo the number of nodes, as published.

    Counted are the nodes the task fits on.
    """

    observes = ()
    observe_function = staticmethod(ignore)

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the next node in turn."""
        return in_turn(view, 0, int(state[NODES_USED]), task, task)


@dataclass(frozen=True)
class Random(_Rule):
    """`random`: every node that the task fits on is equally likely."""

    observes = ()
    observe_function = staticmethod(ignore)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Draw a node for every task, and a share in case that the task does not fit there."""
        tasks = instance.tasks
        state = fresh(instance, self.nodes, 2 * tasks)
        first = state.size - 2 * tasks
        state[first : first + tasks] = rng.integers(int(state[NODES_USED]), size=tasks)
        if not instance.fits_everywhere:
            state[first + tasks :] = rng.random(tasks)
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the node that was drawn, or the one at the share of those the task fits on."""
        at, nodes = extra_at(view), int(state[NODES_USED])
        drawn = int(state[at + task])
        if fits(view, drawn, task):
            return drawn
        share = state[at + view.training.size + task]
        return in_turn(view, 0, nodes, task, int(share * count_fitting(view, 0, nodes, task)))


@dataclass(frozen=True)
class PowerOfTwo(_Rule):
    """`power-of-two`: of two different nodes drawn at random, the one with fewer open tasks.

    The two are drawn of the nodes that the task fits on.
    """

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Draw two nodes for every task, and two shares in case that it does not fit on both."""
        tasks = instance.tasks
        state = fresh(instance, self.nodes, 4 * tasks)
        nodes, first_at = int(state[NODES_USED]), state.size - 4 * tasks
        first = rng.integers(nodes, size=tasks)
        other = (first + 1 + rng.integers(max(nodes - 1, 1), size=tasks)) % nodes
        drawn = state[first_at : first_at + 2 * tasks]
        drawn[:] = np.column_stack([first, other]).reshape(-1)
        if not instance.fits_everywhere:
            state[first_at + 2 * tasks :] = rng.random(2 * tasks)
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the shorter queue, the one drawn first on ties."""
        at = extra_at(view) + 2 * task
        first, other = int(state[at]), int(state[at + 1])
        if not (fits(view, first, task) and fits(view, other, task)):
            nodes, shares = int(state[NODES_USED]), at + 2 * view.training.size
            fitting = count_fitting(view, 0, nodes, task)
            turn = int(state[shares] * fitting)
            step = 1 + int(state[shares + 1] * (fitting - 1))
            first = in_turn(view, 0, nodes, task, turn)
            other = in_turn(view, 0, nodes, task, turn + step)
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
            if not fits(view, node, task):
                continue
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
        return least_of(view, state, task, OPEN)


@dataclass(frozen=True)
class LeastWork(_Rule):
    """`least-work-left`: fewest predicted GPU seconds not yet ended, first node on ties."""

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the node with the least predicted work."""
        return least_of(view, state, task, WORK)


@dataclass(frozen=True)
class Separate(CompiledPolicy):
    """`separate`: nodes split between inference and training, round robin inside each part.

    The turn is the task id modulo the part's size, as published, so that kinds that strictly
    alternate use only every other node of an even part. A task that fits on no node of its part
    takes its turn among all nodes that it fits on.

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
        state = fresh(instance, None)
        state[NODES_USED] = len(serving) or instance.cluster.nodes
        state[PARAMETER] = learning.start
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the next node in turn of the task's part."""
        nodes = view.node_class.size
        if view.training[task]:
            return in_turn_of_part(view, int(state[PARAMETER]), nodes, task)
        return in_turn_of_part(view, 0, int(state[NODES_USED]), task)
