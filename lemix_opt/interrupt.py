"""Ctrl-C: a flag that outlives the exception, so that no press of the key is lost.

Python raises `KeyboardInterrupt` wherever the main thread happens to be, and drops it where that is
a finalizer or a callback of the garbage collector. Within `interruptible` a press is also kept in
a flag, which long loops look at and commands ask before they go on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = "interrupted"
"""What results that Ctrl-C has cut say as their explanation."""


class _State:
    """A plain attribute: a lock in the handler could wait for the code it has interrupted."""

    pressed = False
    waiting = 0


def interrupted() -> bool:
    """Whether Ctrl-C was pressed since the outermost `interruptible` began."""
    return _State.pressed


def stop_if_interrupted() -> None:
    """Raise `KeyboardInterrupt` if Ctrl-C was pressed; for loops, in any thread."""
    if _State.pressed:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Keep every Ctrl-C in mind until the outermost of these blocks ends.

    Outside the main thread, and where the caller has a handler of its own, nothing changes.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        yield
        return
    _State.pressed = False
    signal.signal(signal.SIGINT, _press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _State.pressed = False


@contextmanager
def without_exceptions() -> Iterator[None]:
    """Let the first Ctrl-C only set the flag, for code that looks at it and must not be torn."""
    _State.waiting += 1
    try:
        yield
    finally:
        _State.waiting -= 1


def _press(signum: int, frame: Any) -> None:
    again, _State.pressed = _State.pressed, True
    if again or not _State.waiting:
        raise KeyboardInterrupt
