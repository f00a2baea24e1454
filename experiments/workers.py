"""Worker processes: one call each at a time; one that is killed takes only its own call along.

A worker reads calls from its standard input and ends as soon as that closes, so that none outlives
the process that started it, however that one ends. Workers ignore Ctrl-C: their owner stops them.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import IO, Any

from lemix_opt.errors import LemixError
from lemix_opt.interrupt import stop_if_interrupted

_BEGIN = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from experiments.workers import serve; serve()"
)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""One thread each unless the user says otherwise, so that sums do not depend on the workers."""


@dataclass(frozen=True)
class Lost:
    """What stands for the answer of a call whose worker has ended.

    Parameters
    ----------
    how : str
        How it ended, and what is the likely cause.
    """

    how: str


@dataclass(frozen=True)
class _Raised:
    error: BaseException


def answers(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], jobs: int
) -> Generator[tuple[int, Any], None, None]:
    """Yield the number and the answer of every call as soon as it has ended, in any order.

    Parameters
    ----------
    function : callable
        One that a module has by name.
    calls : sequence of tuple
        Its arguments.
    jobs : int
        Processes.

    Yields
    ------
    tuple of int and answer
        The answer is a `Lost` where the worker was killed; another takes its place.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C within `lemix_opt.interrupt.interruptible`; the calls under way are ended.
    """
    waiting: queue.SimpleQueue[tuple[int, tuple[Any, ...]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for item in enumerate(calls):
        waiting.put(item)
    crew = [_Owner(function, waiting, done) for _ in range(min(jobs, len(calls)))]
    try:
        for owner in crew:
            owner.start()
        for _ in calls:
            number, answer = _next(done)
            if isinstance(answer, _Raised):
                raise answer.error
            yield number, answer
    except KeyboardInterrupt:
        for owner in crew:
            owner.end()
        # What has ended by now counts.
        while not done.empty():
            number, answer = done.get()
            if not isinstance(answer, Lost | _Raised):
                yield number, answer
        raise
    finally:
        for owner in crew:
            owner.end()


def in_order(
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    jobs: int,
    lost: Callable[[int, Lost], Any] | None = None,
) -> Generator[Any, None, None]:
    """Yield the answers in the order of the calls; one job runs them in this process.

    Parameters
    ----------
    lost : callable, optional
        Returns what stands for the answer of a call whose worker was killed, from its number.

    Raises
    ------
    LemixError
        If a worker was killed and `lost` is not given.
    """
    if jobs == 1 or len(calls) < 2:
        yield from (function(*call) for call in calls)
        return
    known: dict[int, Any] = {}
    number = 0
    with closing(answers(function, calls, jobs)) as found:
        for at, answer in found:
            known[at] = answer
            while number in known:
                one = known.pop(number)
                if isinstance(one, Lost):
                    if lost is None:
                        raise LemixError(one.how, where=f"job {number + 1} of {len(calls)}")
                    one = lost(number, one)
                yield one
                number += 1


def _next(done: queue.SimpleQueue[tuple[int, Any]]) -> tuple[int, Any]:
    while True:
        stop_if_interrupted()
        # Waits without a timeout cannot be interrupted on every platform.
        with suppress(queue.Empty):
            return done.get(timeout=0.2)


class _Owner(threading.Thread):
    """Feeds one worker at a time, and starts another when it has ended."""

    def __init__(
        self,
        function: Callable[..., Any],
        waiting: queue.SimpleQueue[tuple[int, tuple[Any, ...]]],
        done: queue.SimpleQueue[tuple[int, Any]],
    ) -> None:
        super().__init__(daemon=True)
        self.function, self.waiting, self.done = function, waiting, done
        self.lock, self.ended = threading.Lock(), False
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Pass on calls until there are none."""
        with suppress(queue.Empty):
            while not self.ended:
                number, call = self.waiting.get_nowait()
                try:
                    answer = self._ask(call)
                except BaseException as error:  # the caller's thread raises it
                    answer = _Raised(error)
                self.done.put((number, answer))
        self.end()

    def _ask(self, call: tuple[Any, ...]) -> Any:
        content = pickle.dumps((self.function, call))
        process = self._worker()
        if process is None:
            return Lost("ended with all others")
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _write(process.stdin, content)
            return pickle.loads(_read(process.stdout))
        except (OSError, EOFError):
            self.process = None
            return Lost(_how(_ended(process)))

    def _worker(self) -> subprocess.Popen[bytes] | None:
        with self.lock:
            if self.process is None and not self.ended:
                threads = dict.fromkeys(_THREADS, "1")
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _BEGIN],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**threads, **os.environ},
                    # The terminal sends Ctrl-C to the owner alone.
                    start_new_session=True,
                )
                assert self.process.stdin is not None
                pickle.dump(sys.path, self.process.stdin)
            return self.process

    def end(self) -> None:
        """End the worker, whatever it is doing."""
        with self.lock:
            self.ended = True
            process = self.process
            if process is not None:
                process.kill()
        if self.is_alive() and self is not threading.current_thread():
            self.join()
        if process is not None:
            _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """End a process and close its pipes; return its exit code."""
    process.kill()
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    return code


def _how(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}; likely a plug-in that ends it"
    name = signal.Signals(-code).name
    likely = {
        "SIGKILL": "likely for want of memory, or by a plug-in",
        "SIGSEGV": "likely by a fault of a library or plug-in",
    }
    return f"its process was killed by {name}, {likely.get(name, 'likely from outside')}"


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(len(content).to_bytes(8, "little") + content)
    file.flush()


def _read(file: IO[bytes]) -> bytes:
    """Return the next message; `EOFError` where the other side has ended."""
    head = file.read(8)
    content = file.read(int.from_bytes(head, "little")) if len(head) == 8 else b""
    if len(head) < 8 or len(content) < int.from_bytes(head, "little"):
        raise EOFError
    return content


def serve() -> None:
    """Answer calls from standard input until it closes; the life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    # What plug-ins print must not get between the answers.
    os.dup2(2, 1)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(calls,), daemon=True).start()
    while True:
        _write(out, _answer(calls.get()))


def _receive(calls: queue.SimpleQueue[bytes]) -> None:
    """Take calls while others are worked on: the end of the owner must not wait for them."""
    try:
        while True:
            calls.put(_read(sys.stdin.buffer))
    except (OSError, EOFError):
        os._exit(1)


def _answer(content: bytes) -> bytes:
    try:
        function, call = pickle.loads(content)
        return pickle.dumps(function(*call))
    except Exception as error:
        try:
            told = pickle.dumps(_Raised(error))
            pickle.loads(told)
            return told
        except Exception:
            return pickle.dumps(_Raised(LemixError(f"{type(error).__name__}: {error}")))
