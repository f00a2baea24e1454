"""`separate-dynamic`: a split between serving and training that follows the request rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.view import View
from lemix_opt.instance import Instance
from solvers.online.load import ignore, in_turn_of_part

RATE, SEEN, RING = 2, 3, 4


@dataclass(frozen=True)
class DynamicSeparate(CompiledPolicy):
    """`separate-dynamic`: a quarter of the nodes serves at low request rate, else a half.

    The published code looks the rate up in the schedule of its own workload; here it is the rate
    of the latest requests, so that the rule works on any arrivals. A task that fits on no node of
    its part takes its turn among all nodes that it fits on.

    Parameters
    ----------
    rate_per_s : float, default 15
        Requests per second above which half of the nodes serve, as published.
    requests : int, default 8
        Latest requests the rate is measured over.
    """

    rate_per_s: float = 15.0
    requests: int = 8

    observes = ()
    observe_function = staticmethod(ignore)

    def __post_init__(self) -> None:
        floats("rate_per_s", self.rate_per_s, (), above=0)
        whole("requests", self.requests, minimum=2)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return a ring for the latest arrivals."""
        state = np.zeros(RING + self.requests)
        state[RATE] = self.rate_per_s
        return state

    @staticmethod
    def decide_function(now_s: float, task: int, view: View, state: Any) -> int:
        """Take the next node in turn of the part that the present rate gives to the task's kind."""
        nodes, room = view.node_class.size, state.size - RING
        seen = int(state[SEEN])
        trains = view.training[task] == 1
        if not trains:
            state[RING + seen % room] = now_s
            seen += 1
            state[SEEN] = seen
        kept = min(seen, room)
        oldest = state[RING + (seen - kept) % room] if kept else now_s
        fast = kept > 1 and kept - 1 > state[RATE] * (now_s - oldest)
        serve = max(1, nodes // 2 if fast else nodes // 4)
        if trains and serve < nodes:
            return in_turn_of_part(view, serve, nodes, task)
        return in_turn_of_part(view, 0, serve, task)
