"""Ctrl-C: no press is lost, every solver returns its best, and nothing cut counts as finished."""

from __future__ import annotations

import _thread
import gc
import signal
import threading
from typing import Any

import pytest
from test_exact_limits import SLO, hard

from lemix_opt import Schedule
from lemix_opt.errors import FieldError
from lemix_opt.interrupt import interrupted, interruptible, without_exceptions
from lemix_opt.result import Value
from lemix_opt.validation import validate
from solvers import solve
from solvers.registry import SOLVERS
from solvers.waiting import answer_of, wait_for


class Finalizer:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_press_in_a_finalizer_is_kept() -> None:
    with interruptible():
        one = Finalizer()
        del one
        gc.collect()
        assert interrupted()
    assert not interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_callers_own_handler_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            assert heard == [signal.SIGINT]
            assert not interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_a_second_press_tears_what_looks_at_the_flag() -> None:
    with interruptible(), without_exceptions():
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_stop_that_is_not_heard_is_repeated() -> None:
    """The work hears only the third call, as CP-SAT hears none before it has begun."""
    calls: list[int] = []
    end = threading.Event()

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            end.set()

    def work() -> None:
        _thread.interrupt_main()
        end.wait()

    with interruptible():
        assert wait_for(work, lambda: False, stop)


def test_a_call_that_nothing_can_end_is_left_behind() -> None:
    end = threading.Event()

    def work() -> None:
        _thread.interrupt_main()
        end.wait()

    with interruptible(), pytest.raises(KeyboardInterrupt):
        answer_of(work)
    end.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in ("milp", "reoptimise")])
@pytest.mark.parametrize("tasks", [12, 40])
def test_every_solver_takes_a_press_that_python_drops(solver: str, tasks: int) -> None:
    """It falls into a finalizer at the first schedule that is heard of."""
    instance, pressed = hard(tasks), []

    def hear(schedule: Schedule, value: Value) -> None:
        if not pressed and threading.current_thread() is threading.main_thread():
            pressed.append(1)
            one: Any = Finalizer()
            del one

    found = solve(instance, solver, SLO, time_limit_s=300, on_solution=hear)
    assert pressed
    assert found.status == "optimal" or found.interrupted
    assert found.schedule is not None
    assert validate(instance, found.schedule) == []


@pytest.mark.parametrize("solver", SOLVERS.names())
def test_a_solver_that_is_interrupted_ahead_of_its_search_returns_the_initial(
    solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = hard(6)
    first = solve(instance, "anneal", SLO, deterministic_limit=10).schedule

    class Cut:
        def __init__(self, **parameters: Any) -> None: ...

        def solve(self, *arguments: Any, **options: Any) -> Any:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SOLVERS, "create", lambda name, **parameters: Cut())
    found = solve(instance, solver, SLO, initial=first)
    assert found.interrupted
    assert found.schedule == first


def test_nested_solves_end_at_once_after_a_press() -> None:
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert solve(hard(40), "lns", SLO, time_limit_s=300).interrupted


@pytest.mark.parametrize("solver", SOLVERS.names())
@pytest.mark.parametrize(
    "limits",
    [
        {"time_limit_s": float("inf")},
        {"time_limit_s": float("nan")},
        {"deterministic_limit": float("inf")},
        {"deterministic_limit": float("nan")},
        {"time_limit_s": float("inf"), "deterministic_limit": float("inf")},
    ],
)
def test_searches_without_an_end_are_refused(solver: str, limits: dict[str, float]) -> None:
    with pytest.raises(FieldError, match=r"time_limit_s|deterministic_limit"):
        solve(hard(4), solver, SLO, **limits)
