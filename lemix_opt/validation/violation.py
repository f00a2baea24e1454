"""A broken rule of a schedule, and how far numbers may be off before it counts as one."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE_S = 1e-9
"""Seconds by which two times may differ and still count as equal."""

TOLERANCE_BYTES = 1e-3
"""Bytes that floating-point sums of gigabytes may be off."""


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Parameters
    ----------
    rule : str
        Name of the rule.
    message : str
        What is wrong, with the values found and expected.
    task, stage, node : int
        Where; −1 where it does not apply.
    time_s : float
        Moment from which the rule is broken.
    """

    rule: str
    message: str
    task: int = -1
    stage: int = -1
    node: int = -1
    time_s: float = 0.0
