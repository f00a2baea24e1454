"""Wall time of a policy's decisions, measured from outside so that policies stay clockless."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.instance import Instance
from lemix_opt.policy import Assign, BatchObserved, Defer, Event, Policy


@dataclass
class TimedPolicy:
    """A policy and the time it takes; it decides exactly as the policy does.

    Parameters
    ----------
    policy : Policy
        The policy to be timed.

    Attributes
    ----------
    decisions : int
        Calls of `decide`.
    decide_s : float
        Wall seconds spent deciding.
    """

    policy: Policy
    decisions: int = 0
    decide_s: float = 0.0

    def start(self, instance: Instance, rng: np.random.Generator) -> Any:
        """Start the policy."""
        return self.policy.start(instance, rng)

    def decide(self, state: Any, now_s: float, task: int) -> Assign | Defer:
        """Decide and count."""
        begin = time.perf_counter()
        answer = self.policy.decide(state, now_s, task)
        self.decide_s += time.perf_counter() - begin
        self.decisions += 1
        return answer

    def observe(self, state: Any, event: Event | BatchObserved) -> None:
        """Pass the event on."""
        self.policy.observe(state, event)
