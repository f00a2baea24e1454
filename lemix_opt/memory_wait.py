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
    offload_bytes_per_s : float, default 0
        Bytes per second between a GPU and the host's memory. More than 0: nothing is dropped after
        `max_wait_s`; instead the GPU's next turns go to moving out the activations of training
        tasks, one task after another until the operation has room. The task whose forward began
        last there goes first, as its backward there is expected last; one whose backward there is
        ready stays. Memory is free when the move has ended. The backward then first takes the
        memory again and moves the activations back, and waits for it like a forward.

    Raises
    ------
    FieldError
        If a field is negative or NaN, the poll is infinite or too short, or offloading comes with a
        poll or without a finite `max_wait_s`.
    """

    poll_s: float = 0.0
    max_wait_s: float = inf
    offload_bytes_per_s: float = 0.0

    def __post_init__(self) -> None:
        poll_s = floats("memory_wait.poll_s", self.poll_s, (), minimum=0)
        if 0 < poll_s < SHORTEST_POLL_S:
            raise FieldError(
                f"{poll_s:g} s",
                where="memory_wait.poll_s",
                expected=f"0, or at least {SHORTEST_POLL_S:g} s",
            )
        longest_s = floats("memory_wait.max_wait_s", self.max_wait_s, (), minimum=0, infinite=True)
        rate = floats("memory_wait.offload_bytes_per_s", self.offload_bytes_per_s, (), minimum=0)
        if rate > 0 and (poll_s > 0 or longest_s == inf):
            raise FieldError(
                f"offloading with poll_s {poll_s:g} and max_wait_s {longest_s:g}",
                where="memory_wait",
                expected="poll_s 0 and a finite max_wait_s",
            )
        object.__setattr__(self, "offload_bytes_per_s", float(rate))
        object.__setattr__(self, "poll_s", float(poll_s))
        object.__setattr__(self, "max_wait_s", float(longest_s))


AT_ONCE = MemoryWait()
"""As soon as memory is freed, without end."""
PUBLISHED = MemoryWait(poll_s=0.1, max_wait_s=10.0)
"""What the published LeMix code does."""
