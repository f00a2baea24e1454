"""Work in a thread, so that the caller's thread can take Ctrl-C and keep a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable


def wait_for(
    work: Callable[[], None], over: Callable[[], bool], stop: Callable[[], None] | None
) -> bool:
    """Run `work` until its end; return whether Ctrl-C ended it.

    Parameters
    ----------
    work : callable
        What to do; exceptions in it are raised here.
    over : callable
        Whether a limit is over that `work` may have overlooked.
    stop : callable, optional
        Ends the work early. Without one, work that cannot be ended is left behind on Ctrl-C.
    """
    failed: list[BaseException] = []
    # Not Thread.join: Python 3.11 takes a thread for ended when Ctrl-C interrupts that.
    ended = threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, daemon=True)
    interrupted = False
    thread.start()
    while not ended.is_set():
        try:
            # Waits without a timeout cannot be interrupted on every platform.
            ended.wait(0.2)
            if stop is not None and over():
                stop()
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            if stop is None:
                return True
            stop()
    if failed:
        raise failed[0]
    return interrupted
