"""How long an operation waits for memory, and what comes of it then."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from lemix_opt.checks import floats
from lemix_opt.errors import FieldError

SHORTEST_POLL_S = 1e-6
"""Shorter polls than this would drown in the rounding of a clock in seconds."""


@dataclass(frozen=True)
class MemoryWait:
    """Waiting for memory at run time.

    A wait begins when a GPU would start an operation but for memory, and ends when a look finds
    what it asks for.

    Parameters
    ----------
    poll_s : float, default 0
        Seconds between two looks, at least 1e-6; 0 looks whenever anything on the node has changed.
    max_wait_s : float, default infinity
        Seconds after which a last look is taken and the task is dropped, as an out-of-memory event.

    Raises
    ------
    FieldError
        If a field is negative or NaN, or the poll is infinite or too short.
    """

    poll_s: float = 0.0
    max_wait_s: float = inf

    def __post_init__(self) -> None:
        poll_s = floats("memory_wait.poll_s", self.poll_s, (), minimum=0)
        if 0 < poll_s < SHORTEST_POLL_S:
            raise FieldError(
                f"{poll_s:g} s",
                where="memory_wait.poll_s",
                expected=f"0, or at least {SHORTEST_POLL_S:g} s",
            )
        longest_s = floats("memory_wait.max_wait_s", self.max_wait_s, (), minimum=0, infinite=True)
        object.__setattr__(self, "poll_s", float(poll_s))
        object.__setattr__(self, "max_wait_s", float(longest_s))


PUBLISHED = MemoryWait(poll_s=0.1, max_wait_s=10.0)
"""What the published LeMix code does."""
