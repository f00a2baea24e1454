"""`shortest-response`: the node that is predicted to answer first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, whole
from lemix_opt.engine.books import NONE
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.view import View
from lemix_opt.instance import Instance
from solvers.online.forecast import OWN, choose, fresh, keep, soonest
from solvers.online.load import first_nodes

NODES_USED = OWN


@dataclass(frozen=True)
class ShortestResponse(CompiledPolicy):
    """`shortest-response`: earliest predicted end of the last forward, first node on ties.

    The prediction is that of `lemix` (`solvers.online.forecast`): pipelines, owed backwards and
    the drift of what has ended.

    Parameters
    ----------
    nodes : int, optional
        Only the first so many nodes are used; all of them when omitted. A task that fits on none
        of them is refused before the run.
    """

    nodes: int | None = None

    observe_function = staticmethod(keep)

    def __post_init__(self) -> None:
        if self.nodes is not None:
            whole("nodes", self.nodes, minimum=1)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return the forecast of an idle cluster."""
        state = fresh(instance)
        state[NODES_USED] = first_nodes(instance, self.nodes)
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Predict the task on every node it fits on and take the first to end."""
        best = soonest(view, state, 0, int(state[NODES_USED]), task, now_s)
        return 0 if best == NONE else choose(state, best, task, now_s)
