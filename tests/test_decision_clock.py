"""Measured decisions: what is decided stays the same, and only deciding is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import lemix_opt.engine.compiled as compiled_module
from experiments.comparison import compare
from experiments.report import times_text
from experiments.study import Problem, Study, build
from experiments.windows import ExactSettings, part, run_window
from lemix_opt import CompiledPolicy, Instance, Schedule, replay, simulate
from lemix_opt.decision_clock import DecisionClock
from lemix_opt.policy import Assign, BatchObserved, Defer, Event, Policy
from solvers.registry import POLICIES

PLAIN = tuple(POLICIES.names())
AROUND = tuple(f"corrected:{name}" for name in PLAIN if name != "corrected")
COMPILED = tuple(n for n in PLAIN if isinstance(POLICIES.create(n), CompiledPolicy))
EVERY = (*PLAIN, *AROUND, *(f"unprofiled:{name}" for name in COMPILED))
IN_PYTHON = tuple(name for name in EVERY if name not in COMPILED)


@pytest.fixture(scope="module")
def problem() -> Problem:
    # Forwards are underrated and backwards overrated; GPUs are kept for backwards as predicted.
    found = build(Study(tasks=60, nodes=2, stages=2, load=1.2, training_share=0.5, seed=4))
    forward_s, backward_s = 2 * found.trace.actual.forward_s, found.trace.actual.backward_s / 2
    actual = replace(found.trace.actual, forward_s=forward_s, backward_s=backward_s)
    return replace(found, trace=replace(found.trace, actual=actual))


@pytest.fixture(scope="module")
def compared(problem: Problem) -> dict[str, Schedule]:
    return compare(problem, EVERY).schedules


@pytest.mark.parametrize("name", EVERY)
def test_a_comparison_runs_what_a_replay_runs(
    name: str, problem: Problem, compared: dict[str, Schedule]
) -> None:
    trace, seed = problem.trace, problem.seed
    policy = POLICIES.create(name)
    assert compared[name] == replay(trace, policy, seed=seed).schedule
    assert compared[name] == simulate(trace.instance, policy, trace.actual, seed)


def test_corrected_beliefs_matter_here(problem: Problem) -> None:
    """Otherwise the test above says little: GPUs go by other beliefs when these are lost."""

    @dataclass
    class Lost:
        policy: Any

        def __getattr__(self, name: str) -> Any:
            if name == "believed":
                raise AttributeError(name)
            return getattr(self.policy, name)

    trace, policy = problem.trace, POLICIES.create("corrected:mix-rr")
    lost = simulate(trace.instance, Lost(policy), trace.actual, problem.seed)
    assert lost != simulate(trace.instance, policy, trace.actual, problem.seed)


def test_windows_are_planned_and_replayed_under_one_belief(problem: Problem) -> None:
    window = part(problem.trace, np.arange(8))
    found = run_window(
        0, window, problem.objective, EVERY, None, ExactSettings("anneal", 60.0, 0.1), 4
    )
    for row in found.rows[: len(EVERY)]:
        name = row["name"]
        assert found.schedules[name] == simulate(window.instance, POLICIES.create(name), seed=4)
        done = replay(window, POLICIES.create(name), seed=4)
        assert row["makespan_s"] == done.score.makespan_s
    counted = {row["name"]: row["decisions"] for row in found.times}
    assert all(counted[name] >= 8 for name in EVERY)


@dataclass
class Counted:
    """Passes everything on, as a plain policy, and counts what it is asked."""

    policy: Policy
    asked: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def start(self, instance: Instance, rng: np.random.Generator) -> Any:
        return self.policy.start(instance, rng)

    def decide(self, state: Any, now_s: float, task: int) -> Assign | Defer:
        self.asked += 1
        return self.policy.decide(state, now_s, task)

    def observe(self, state: Any, event: Event | BatchObserved) -> None:
        self.policy.observe(state, event)


@pytest.mark.parametrize("name", EVERY)
def test_every_decision_is_counted_within_the_time_of_its_run(name: str, problem: Problem) -> None:
    trace, clock, counted = problem.trace, DecisionClock(), Counted(POLICIES.create(name))
    begin_s = time.perf_counter()
    measured = simulate(trace.instance, POLICIES.create(name), trace.actual, 1, clock)
    run_s = time.perf_counter() - begin_s
    assert measured == simulate(trace.instance, counted, trace.actual, 1)
    assert clock.decisions == counted.asked >= trace.instance.tasks
    assert 0 < clock.seconds <= run_s


@dataclass
class Slow:
    """Every step of it takes seconds of a clock that it moves on itself."""

    clock_ns: list[int]
    seconds: dict[str, int] = field(
        default_factory=lambda: {"start": 100, "decide": 2, "observe": 30}
    )

    def _takes(self, step: str) -> None:
        self.clock_ns[0] += 10**9 * self.seconds[step]

    def start(self, instance: Instance, rng: np.random.Generator) -> None:
        self._takes("start")

    def decide(self, state: None, now_s: float, task: int) -> Assign:
        self._takes("decide")
        return Assign(0)

    def observe(self, state: None, event: Event | BatchObserved) -> None:
        self._takes("observe")


def test_only_decisions_are_measured(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = [0]
    monkeypatch.setattr("lemix_opt.decision_clock.time.perf_counter_ns", lambda: now_ns[0])
    clock = DecisionClock()
    replay(problem.trace, Slow(now_ns), clock=clock)
    assert (clock.decisions, clock.seconds) == (60, pytest.approx(2.0 * 60))
    replay(problem.trace, Slow(now_ns), clock=clock)
    assert (clock.decisions, clock.seconds) == (120, pytest.approx(2.0 * 120))


@pytest.fixture
def forgotten() -> None:
    """Forget which policies are compiled, as a process that has just begun."""
    CompiledPolicy.__dict__["functions"].__func__.cache_clear()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("name", IN_PYTHON)
def test_nothing_is_compiled_within_a_decision(
    name: str, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    deciding: list[int] = []
    late: list[Any] = []
    real, around = compiled_module.compiled, DecisionClock.around

    def watched(function: Any, *signature: Any, **options: Any) -> Any:
        late.extend([function] if deciding else [])
        return real(function, *signature, **options)

    def marked(clock: DecisionClock, decide: Any) -> Any:
        def decided(*arguments: Any) -> Any:
            deciding.append(1)
            answer = decide(*arguments)
            deciding.clear()
            return answer

        return around(clock, decided)

    monkeypatch.setattr(compiled_module, "compiled", watched)
    monkeypatch.setattr(DecisionClock, "around", marked)
    simulate(
        problem.trace.instance.window(np.arange(3)), POLICIES.create(name), None, 0, DecisionClock()
    )
    assert late == []


def test_the_table_of_times_says_what_is_measured(problem: Problem) -> None:
    text = times_text(compare(problem, ("lemix", "lemix-reference")))
    assert "per decision" in text
    assert "without compilation" in text
