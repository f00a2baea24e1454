"""A plug-in whose policy kills its own process, as the system does for want of memory."""

from __future__ import annotations

import os
import signal
from typing import Any


class Oomer:
    """Die at the first decision."""

    observes = ()

    def start(self, instance: Any, rng: Any) -> None:
        """Keep no state."""

    def decide(self, state: Any, now_s: float, task: int) -> Any:
        """Kill the process."""
        os.kill(os.getpid(), signal.SIGKILL)

    def observe(self, state: Any, event: Any) -> None:
        """Ignore all events."""
