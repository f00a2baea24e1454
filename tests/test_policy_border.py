"""What policies hand to the engine is checked where it comes in, and no run goes on without end."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pytest

from lemix_opt import Assign, Cluster, CompiledPolicy, Costs, Defer, Instance, Workload
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError, LemixError, UnknownNameError

TASKS = 4
ON_TIME, ASK = -3, -5


def small(forward_s: float = 0.5) -> Instance:
    shape = (1, TASKS, 2)
    costs = Costs(np.full(shape, forward_s), np.full(shape, 1.0), np.zeros(shape), np.zeros((1, 2)))
    return Instance(Cluster(2, 2, 1.0), Workload([0, 1] * 2, np.arange(4.0), 1, 32), costs)


class Answers:
    """A policy in plain Python that always gives the same answer."""

    def __init__(self, answer: Any, **attributes: Any) -> None:
        self.answer = answer
        vars(self).update(attributes)

    def start(self, instance: Instance, rng: np.random.Generator) -> None:
        pass

    def decide(self, state: None, now_s: float, task: int) -> Any:
        return self.answer(now_s) if callable(self.answer) else self.answer

    def observe(self, state: None, event: Any) -> None:
        pass


@pytest.mark.parametrize(
    "node", [None, "0", 0.5, 1.0, -1, 2, 2**70, float("nan"), [0], np.array([0, 1])]
)
def test_a_placement_on_no_node_is_refused(node: Any) -> None:
    with pytest.raises(LemixError, match=r"placed task 0 on node .* expected a node from 0 to 1"):
        simulate(small(), Answers(Assign(node)))


@pytest.mark.parametrize("node", [1, np.int32(1), np.uint8(1), True])
def test_whole_numbers_of_any_kind_are_nodes(node: Any) -> None:
    assert simulate(small(), Answers(Assign(node))).node.tolist() == [1] * TASKS


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Defer("time", "soon"), "put task 0 off to 'soon'"),  # type: ignore[arg-type]
        (Defer("time", [1.0]), "put task 0 off to"),  # type: ignore[arg-type]
        (Defer("time"), "put task 0 off to None"),
        (Defer("time", float("nan")), "put task 0 off to"),
        (Defer("time", float("inf")), "put task 0 off to inf"),
        (Defer("time", -1.0), "put task 0 off to -1"),
        (Defer("later"), "answered"),
        (None, "answered None"),
        (0, "answered 0"),
        ("x" * 1000, "answered 'x{1,60}"),
    ],
)
def test_other_answers_are_refused(answer: Any, said: str) -> None:
    with pytest.raises(LemixError, match=said) as caught:
        simulate(small(), Answers(answer))
    assert len(str(caught.value)) < 300


def test_unknown_events_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'assign'"):
        simulate(small(), Answers(Assign(0), observes=("asign",)))
    for observes in ("assign", 3):
        with pytest.raises(FieldError, match=r"policy\.observes"):
            simulate(small(), Answers(Assign(0), observes=observes))


@pytest.mark.parametrize("other", [None, "costs", "fewer tasks", "more nodes", "more stages"])
def test_beliefs_of_another_size_are_refused(other: str | None) -> None:
    instance = small()
    shape = (1, TASKS, 3)
    costs = Costs(np.ones(shape), np.ones(shape), np.zeros(shape), np.zeros((1, 3)))
    found = {
        None: None,
        "costs": instance.costs,
        "fewer tasks": instance.window(np.arange(2)),
        "more nodes": Instance(Cluster(3, 2, 1.0), instance.workload, instance.costs),
        "more stages": Instance(Cluster(2, 3, 1.0), instance.workload, costs),
    }[other]
    with pytest.raises(FieldError, match="believed"):
        simulate(instance, Answers(Assign(0), believed=lambda state: found))


class Compiled(CompiledPolicy):
    """A compiled policy that puts everything on node 0."""

    observes = ()

    def __init__(self, numbers: Any = None) -> None:
        self.given = np.zeros(2) if numbers is None else numbers

    def numbers(self, instance: Instance, rng: np.random.Generator) -> Any:
        return self.given

    @staticmethod
    def decide_function(now_s: float, task: int, view: Any, state: Any) -> int:
        return 0

    @staticmethod
    def observe_function(
        kind: int,
        time_s: float,
        task: int,
        node: int,
        phase: int,
        stage: int,
        memory_bytes: float,
        view: Any,
        state: Any,
    ) -> int:
        return 0


class Asks(Compiled):
    """It leaves the decision to a driver that a compiled policy does not have."""

    @staticmethod
    def decide_function(now_s: float, task: int, view: Any, state: Any) -> int:
        return ASK


class Nonsense(Compiled):
    """It answers with a code that does not exist."""

    @staticmethod
    def decide_function(now_s: float, task: int, view: Any, state: Any) -> int:
        return -7


class ReadsBeyond(Compiled):
    """It reads a stage that does not exist."""

    @staticmethod
    def decide_function(now_s: float, task: int, view: Any, state: Any) -> int:
        return int(view.forward_s[0, task, 1_000_000])


class WritesBeyond(Compiled):
    """It writes a number that it did not ask for, when told of an event."""

    observes = ("assign",)

    @staticmethod
    def observe_function(
        kind: int,
        time_s: float,
        task: int,
        node: int,
        phase: int,
        stage: int,
        memory_bytes: float,
        view: Any,
        state: Any,
    ) -> int:
        state[1_000_000] = 1.0
        return 0


class Polls(Compiled):
    """It asks again every millisecond."""

    @staticmethod
    def decide_function(now_s: float, task: int, view: Any, state: Any) -> int:
        state[0] = now_s + 1e-3
        return 0 if task == 0 else ON_TIME


class PollsAlways(Compiled):
    """It asks again every millisecond, about every task."""

    @staticmethod
    def decide_function(now_s: float, task: int, view: Any, state: Any) -> int:
        state[0] = now_s + 1e-3
        return ON_TIME


@pytest.mark.parametrize(
    "numbers",
    [
        np.zeros(0),
        np.zeros((2, 2)),
        np.zeros(4)[::2],
        np.zeros(2, dtype=np.float32),
        np.zeros(2, dtype=np.int64),
        [0.0, 0.0],
        None,
        "numbers",
    ],
)
def test_numbers_of_another_form_are_refused(numbers: Any) -> None:
    policy = Compiled()
    policy.given = numbers
    with pytest.raises(FieldError, match="numbers of the policy"):
        simulate(small(), policy)


@pytest.mark.parametrize("policy", [Asks, Nonsense])
def test_codes_that_are_no_answer_are_refused(policy: type[Compiled]) -> None:
    with pytest.raises(LemixError, match="placed task 0 on node -"):
        simulate(small(), policy())


@pytest.mark.parametrize("policy", [ReadsBeyond, WritesBeyond])
def test_indices_beyond_an_array_are_found(policy: type[Compiled]) -> None:
    with pytest.raises(LemixError, match=f"{policy.__name__} reads or writes beyond an array"):
        simulate(small(), policy())


@pytest.mark.parametrize(
    "policy", [PollsAlways(), Answers(lambda now_s: Defer("time", now_s + 1e-3))]
)
def test_deferral_without_end_is_an_error(policy: Any) -> None:
    with pytest.raises(LemixError, match=r"put tasks off 1000000 times, task \d last, at \d+"):
        simulate(small(), policy)


def test_tasks_that_wait_for_what_never_comes_are_deferred() -> None:
    done = simulate(small(), Answers(Defer("next_inference_done")))
    assert done.end_state.tolist() == [1, 1, 1, 3]


def test_compiled_runs_hear_ctrl_c() -> None:
    """A poll every millisecond, beside a forward of thirty years."""
    stop = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    Polls.functions()
    simulate(small(), Compiled())
    stop.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            simulate(small(forward_s=1e9), Polls())
    finally:
        stop.cancel()
