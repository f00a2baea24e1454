"""Limits of one run, shared by all searches in it."""

from __future__ import annotations

import time

from lemix_opt.interrupt import stop_if_interrupted


class OutOfTimeError(Exception):
    """The time limit was reached outside a search."""


class Limits:
    """What is left of the wall time and of CP-SAT's deterministic time.

    Parameters
    ----------
    time_limit_s : float
        Wall seconds from now on.
    deterministic_limit : float, optional
        In CP-SAT's own units.
    """

    def __init__(self, time_limit_s: float, deterministic_limit: float | None) -> None:
        self.begin = time.perf_counter()
        self.time_limit_s = time_limit_s
        self.deterministic_limit = deterministic_limit
        self.spent = 0.0

    @property
    def passed_s(self) -> float:
        """Wall seconds since the begin."""
        return time.perf_counter() - self.begin

    def left_s(self, share: float = 1.0) -> float:
        """Wall seconds until a share of the limit has passed."""
        return share * self.time_limit_s - self.passed_s

    def left_deterministic(self, share: float = 1.0) -> float | None:
        """Deterministic time until a share of its limit is spent; None without a limit."""
        if self.deterministic_limit is None:
            return None
        return share * self.deterministic_limit - self.spent

    def part(self, share: float) -> float | None:
        """Return a share of the deterministic time that is left; None without a limit."""
        left = self.left_deterministic()
        return None if left is None else share * left

    def over(self, share: float = 1.0) -> bool:
        """Whether a share of either limit is used up; raises `KeyboardInterrupt` after Ctrl-C."""
        stop_if_interrupted()
        deterministic = self.left_deterministic(share)
        return self.left_s(share) <= 0 or (deterministic is not None and deterministic <= 0)

    def check(self) -> None:
        """Raise `OutOfTimeError` when the time is over, for loops that build large models.

        After Ctrl-C it raises `KeyboardInterrupt`.
        """
        stop_if_interrupted()
        if self.left_s() <= 0:
            raise OutOfTimeError
