"""Work in a thread, so that the caller's thread can take Ctrl-C and keep a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from lemix_opt.interrupt import interrupted, without_exceptions

T = TypeVar("T")


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
        Ends the work early, and is called until it has ended: the work may not be able to hear it
        yet. Without one, work that cannot be ended is left behind on Ctrl-C.
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

    thread, cut = threading.Thread(target=run, daemon=True), False
    with without_exceptions():
        thread.start()
        while not ended.is_set():
            try:
                # Waits without a timeout cannot be interrupted on every platform.
                ended.wait(0.2)
            except KeyboardInterrupt:  # a second press, or a handler of the caller's own
                if cut:
                    raise
                cut = True
            cut = cut or interrupted()
            if cut and stop is None:
                return True
            if stop is not None and (cut or over()):
                stop()
    if failed:
        raise failed[0]
    return cut


def answer_of(work: Callable[[], T]) -> T:
    """Return what a call gives that nothing can end, such as one of HiGHS.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, at once; the call is left behind, so that it must keep a time limit itself.
    """
    answers: list[T] = []
    if wait_for(lambda: answers.append(work()), lambda: False, None):
        raise KeyboardInterrupt
    return answers[0]
