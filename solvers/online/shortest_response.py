"""`shortest-response`: the node that is predicted to answer first."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, whole
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.view import View
from lemix_opt.instance import Instance
from solvers.online.forecast import OWN, end_s, fits, fresh, keep, predict_forwards

NODES_USED = OWN


@dataclass(frozen=True)
class ShortestResponse(CompiledPolicy):
    """`shortest-response`: earliest predicted end of the last forward, first node on ties.

    The prediction is that of `lemix` (`solvers.online.forecast`): pipelines, owed backwards and
    the drift of what has ended.

    Parameters
    ----------
    nodes : int, optional
        Only the first so many nodes are used; all of them when omitted.
    """

    nodes: int | None = None

    observe_function = staticmethod(keep)

    def __post_init__(self) -> None:
        if self.nodes is not None:
            whole("nodes", self.nodes, minimum=1)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return the forecast of an idle cluster."""
        nodes = instance.cluster.nodes
        state = fresh(instance)
        state[NODES_USED] = nodes if self.nodes is None else min(nodes, self.nodes)
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Predict the task on every node it fits on and take the first to end."""
        best, earliest = 0, inf
        for node in range(int(state[NODES_USED])):
            if not fits(view, state, node, task):
                continue
            predict_forwards(view, state, node, task, now_s)
            end = end_s(view, state, node)
            if end < earliest:
                best, earliest = node, end
        return best
