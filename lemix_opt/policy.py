"""The protocol of online policies: what they answer and what they observe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from lemix_opt.instance import Instance


class Assign(NamedTuple):
    """Run the task on this node, from now on."""

    node: int


class Defer(NamedTuple):
    """Decide again later.

    Parameters
    ----------
    until : {"next_inference_done", "time"}
        After the next inference task anywhere has ended, or at `at_s`.
    at_s : float, optional
        Seconds, later than now; for ``until="time"``.
    keeps_place : bool, default True
        Whether the closed loop of training waits for this task. False lets the next training task
        go ahead, as the published code does. The schedule says so then (`Schedule.gave_way`), and
        lies outside the exact model.
    """

    until: str
    at_s: float | None = None
    keeps_place: bool = True


class Event(NamedTuple):
    """Something a policy may observe.

    The micro-batches of a task's forward or backward on a stage count as one: it starts with the
    first of them and ends with the last.

    Parameters
    ----------
    kind : {"assign", "start", "end", "drop"}
        A placement that took effect, the start or end of an operation, or a task dropped for
        lack of memory.
    time_s : float
        When, in seconds.
    task, node : int
        Whose, and where.
    phase, stage : int, default -1
        Operation; −1 for assignments.
    memory_bytes : float, default nan
        Bytes in use on the GPU right after the event, resident ones included.
    """

    kind: str
    time_s: float
    task: int
    node: int
    phase: int = -1
    stage: int = -1
    memory_bytes: float = float("nan")


class BatchObserved(NamedTuple):
    """Tokens that every request in a node's running batch has now, prompt and made ones.

    A policy in plain Python that names ``batch`` among its `observes` is told the batches of all
    nodes before every decision, where requests generate tokens.
    """

    time_s: float
    node: int
    prompt_tokens: tuple[int, ...]


@runtime_checkable
class Policy(Protocol):
    """An online rule: no clock, no input or output; its state is the only thing that changes.

    `simulate` calls `start` once, `decide` for every released task (and again for deferred ones),
    and `observe` with an ``assign`` event as soon as a placement takes effect and with the start
    and end of every operation, in order of time. Events at the moment of a release are observed
    before the decision.
    """

    def start(self, instance: Instance, rng: np.random.Generator) -> Any:
        """Return the state of a fresh run."""
        ...

    def decide(self, state: Any, now_s: float, task: int) -> Assign | Defer:
        """Place one released task, or put it off."""
        ...

    def observe(self, state: Any, event: Event | BatchObserved) -> None:
        """Take note of what happened."""
        ...


@dataclass(frozen=True)
class FixedAssignment:
    """The policy that repeats a given placement; it never defers.

    Parameters
    ----------
    node : tuple of int
        Node of every task.
    """

    node: tuple[int, ...]

    def start(self, instance: Instance, rng: np.random.Generator) -> None:
        """Keep no state."""

    def decide(self, state: None, now_s: float, task: int) -> Assign:
        """Return the given node."""
        return Assign(self.node[task])

    def observe(self, state: None, event: Event | BatchObserved) -> None:
        """Ignore all events."""
