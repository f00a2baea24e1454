"""Worker processes: a killed one loses its own call only, and none outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from experiments.workers import Lost, answers, in_order
from lemix_opt.errors import FieldError, LemixError


def triple(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3:
        os._exit(7)
    return 3 * number


def wrong(number: int) -> None:
    raise FieldError("wrong", where=f"call {number}")


def after_the_last(path: str, number: int) -> int:
    """The first call ends only when all others have."""
    if number == 0:
        with open(path, "rb") as pipe:
            pipe.read(1)
    return number


def test_a_killed_worker_loses_only_its_own_call() -> None:
    found = dict(answers(triple, [(i,) for i in range(5)], jobs=2))
    assert (found[0], found[2], found[4]) == (0, 6, 12)
    assert isinstance(found[1], Lost)
    assert "SIGKILL" in found[1].how
    assert "exit code 7" in found[3].how
    assert list(in_order(triple, [(0,), (1,)], 2, lambda k, lost: -k)) == [0, -1]
    with pytest.raises(LemixError, match=r"job 2 of 2.*SIGKILL"):
        list(in_order(triple, [(0,), (1,)], 2))


def test_answers_come_as_they_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    seen = []
    for number, _ in answers(after_the_last, [(str(path), i) for i in range(4)], jobs=2):
        seen.append(number)
        if len(seen) == 3:
            path.write_bytes(b".")
    assert sorted(seen[:3]) == [1, 2, 3]
    assert seen[3] == 0


def test_errors_of_calls_are_raised_here() -> None:
    with pytest.raises(FieldError, match="call 1: wrong"):
        list(answers(wrong, [(1,)], jobs=1))


def test_workers_end_with_their_owner_however_that_ends() -> None:
    """The worker holds a pipe, which closes when it has ended."""
    read, write = os.pipe()
    code = f"""
    import os, signal, subprocess
    from experiments import workers
    own = subprocess.Popen
    workers.subprocess.Popen = lambda *a, **k: own(*a, pass_fds=[{write}], **k)
    import builtins
    hold = "import os, threading; os.write({write}, b'.'); threading.Event().wait()"
    list(workers.answers(builtins.exec, [(hold,)], 1))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], pass_fds=[write], env=environment
    )
    os.close(write)
    assert os.read(read, 1) == b"."
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert os.read(read, 1) == b""
    os.close(read)
