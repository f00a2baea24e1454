"""Wall time of decisions, measured where they are taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class DecisionClock:
    """Decisions of a policy and the wall time they took, summed over the runs it is handed to.

    Measured is the call of the policy's decision and nothing else: no compilation, no event loop,
    no books that `observe` keeps. A decision of a `lemix_opt.CompiledPolicy` is measured in machine
    code, without a crossing into Python; one of any other policy around `decide` in Python. Either
    way the clock is that of `time.perf_counter`; one reading of it (some tens of ns) is included.
    Clocks do not change what is decided.

    Parameters
    ----------
    decisions : int, default 0
        Decisions taken, those that put a task off among them.
    seconds : float, default 0
        Wall seconds they took together.
    """

    decisions: int = 0
    seconds: float = 0.0

    def add(self, decisions: int, seconds: float) -> None:
        """Add decisions that took some seconds together."""
        self.decisions += decisions
        self.seconds += seconds

    def around(self, decide: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that decides the same and is measured."""

        def measured(state: Any, now_s: float, task: int) -> Any:
            begin_ns = time.perf_counter_ns()
            answer = decide(state, now_s, task)
            self.add(1, 1e-9 * (time.perf_counter_ns() - begin_ns))
            return answer

        return measured
