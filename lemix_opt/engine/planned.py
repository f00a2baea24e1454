"""An operation of a schedule that is executed again, and the order of a task's operations."""

from __future__ import annotations

from dataclasses import dataclass

from lemix_opt.schedule import BACKWARD, FORWARD


def chain_of(training: bool, stages: int) -> list[tuple[int, int]]:
    """Return phase and stage of an item's operations in the order in which they must run."""
    down = [(FORWARD, s) for s in range(stages)]
    return down + [(BACKWARD, s) for s in range(stages - 1, -1, -1)] * training


@dataclass(slots=True, eq=False)
class Op:
    """One planned operation: where and when it is to run, and what has become of it."""

    id: int
    task: int
    item: int  # a micro-batch of the task
    phase: int
    stage: int
    gpu: int
    plan_s: float
    seconds: float
    update_s: float
    hop_s: float = 0.0
    last: bool = False  # the task's last backward on its stage, followed by the update
    free: bool = False  # takes no time and, as planned, no turn on its GPU
    offered: bool = False
    ended: bool = False
