"""Policies whose decisions are compiled: the engine calls them without leaving machine code."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.engine.codes import (
    ASK,
    DEFER_INFERENCE,
    DEFER_INFERENCE_YIELD,
    DEFER_TIME,
    DEFER_TIME_YIELD,
    EVENT_FIELDS,
    EVENTS,
)
from lemix_opt.engine.jit import compiled
from lemix_opt.engine.signatures import DECIDE_T, OBSERVE_T
from lemix_opt.engine.view import View, view_of
from lemix_opt.instance import Instance
from lemix_opt.policy import Assign, BatchObserved, Defer, Event

DEFERRALS = {
    ("next_inference_done", True): DEFER_INFERENCE,
    ("next_inference_done", False): DEFER_INFERENCE_YIELD,
    ("time", True): DEFER_TIME,
    ("time", False): DEFER_TIME_YIELD,
}
OWN_PACKAGES = ("lemix_opt", "solvers")
_ANSWERS = {code: Defer(until, None, keeps) for (until, keeps), code in DEFERRALS.items()}


class Machine(NamedTuple):
    """The columns a compiled policy reads and the numbers it keeps."""

    view: View
    numbers: FloatArray


class CompiledPolicy:
    """Base of policies whose rule is a pair of functions within numba's subset of Python.

    A subclass sets `decide_function` and `observe_function` (static methods, plain Python) and
    `observes`, and returns its fresh numbers from `numbers`. The same object serves as an ordinary
    `Policy`, which calls the same compiled functions one at a time.

    ``decide_function(now_s, task, view, state)`` returns a node's number or one of the codes
    ``DEFER_…`` of `lemix_opt.engine.codes`; for a deferral to a time, ``state[0]`` holds it in
    seconds. ``observe_function(kind, time_s, task, node, phase, stage, memory_bytes, view,
    state)`` returns 0. `view` is a `View`; `state` the array of floats made by `numbers`, whose
    first entry belongs to deferrals.
    """

    observes: ClassVar[tuple[str, ...]] = ("assign", "end", "drop")
    decide_function: Any
    observe_function: Any

    def numbers(self, instance: Instance, rng: np.random.Generator) -> FloatArray:
        """Return the state of a fresh run."""
        raise NotImplementedError

    @classmethod
    @lru_cache(maxsize=64)
    def functions(cls) -> tuple[Any, Any]:
        """Return the compiled pair; compiled, or loaded from the cache, when first asked for.

        Indices are checked unless the class is one of this toolkit's own, which are tested.
        """
        checked = cls.__module__.partition(".")[0] not in OWN_PACKAGES
        decide = compiled(cls.decide_function, DECIDE_T, checked=checked)
        return decide, compiled(cls.observe_function, OBSERVE_T, checked=checked)

    def start(self, instance: Instance, rng: np.random.Generator) -> Machine:
        """Open the books of a fresh run."""
        # Whoever starts a policy asks it next: compilation is no part of its first decision.
        self.functions()
        return Machine(view_of(instance), self.numbers(instance, rng))

    def decide(self, state: Machine, now_s: float, task: int) -> Assign | Defer:
        """Answer for one task."""
        code = int(self.functions()[0](float(now_s), task, state.view, state.numbers))
        if code >= 0:
            return Assign(code)
        answer = _ANSWERS[code]
        return answer._replace(at_s=float(state.numbers[0])) if answer.until == "time" else answer

    def observe(self, state: Machine, event: Event | BatchObserved) -> None:
        """Take note of an event."""
        if isinstance(event, BatchObserved) or event.kind not in self.observes:
            return
        self.functions()[1](
            EVENTS.index(event.kind),
            float(event.time_s),
            event.task,
            event.node,
            event.phase,
            event.stage,
            float(event.memory_bytes),
            state.view,
            state.numbers,
        )


def ask(now_s: float, task: int, view: View, state: Any) -> int:
    """Leave the decision to the driver."""
    return ASK


def record(
    kind: int,
    time_s: float,
    task: int,
    node: int,
    phase: int,
    stage: int,
    memory_bytes: float,
    view: View,
    state: Any,
) -> int:
    """Keep an event for the driver; ``state[1]`` counts them."""
    at = 2 + EVENT_FIELDS * int(state[1])
    state[at] = kind
    state[at + 1] = time_s
    state[at + 2] = task
    state[at + 3] = node
    state[at + 4] = phase
    state[at + 5] = stage
    state[at + 6] = memory_bytes
    state[1] += 1
    return 0


@lru_cache(maxsize=1)
def recorder() -> tuple[Any, Any]:
    """Return the compiled pair that hands decisions and events to a policy in plain Python."""
    return compiled(ask, DECIDE_T), compiled(record, OBSERVE_T)
