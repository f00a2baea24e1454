"""Every task that is not done has a reason, with what it needs and what there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import generating, instances
from test_engine import Deferring, build, run
from test_kernel import Whimsical, others

from lemix_opt import (
    Cluster,
    Costs,
    Generation,
    Instance,
    IterationCosts,
    MemoryWait,
    Operations,
    Workload,
    simulate,
)
from lemix_opt.end_reasons import end_reasons, reasons_text
from lemix_opt.policy import FixedAssignment
from lemix_opt.schedule import DONE, FORWARD, UNFINISHED, Schedule
from lemix_opt.validation import validate

GIB = 2.0**30


def requests(prompt: list[int], output: list[int]) -> Instance:
    """Two nodes of one GPU, with room for the keys and values of 800 and of 2000 tokens."""
    tasks = len(prompt)
    costs = Costs(
        np.full((1, tasks, 1), 0.02),
        0.0,
        0.0,
        0.0,
        iteration=IterationCosts([[0.02]], [[1e-5]], kv_bytes_per_token=[[1.0]]),
    )
    work = Workload([0] * tasks, np.arange(tasks) / 10, 1, prompt, output)
    return Instance(Cluster(2, 1, [[800.0], [2000.0]]), work, costs, generation=Generation())


def test_a_request_says_how_many_tokens_it_needs_and_how_many_fit() -> None:
    instance = requests([900, 790, 100], [10, 20, 10])
    schedule = run(instance)
    reasons = end_reasons(instance, schedule)
    assert [(r.task, r.kind) for r in reasons] == [(0, "too_large"), (1, "too_large")]
    assert reasons[0].text.startswith("needs 909 tokens of KV memory, 800 fit")
    assert reasons[1].text.startswith("needs 809 tokens of KV memory, 800 fit")
    assert reasons_text(reasons) == (
        "task 0 needs 909 tokens of KV memory, 800 fit on stage 0 of node 0 (1 more like it)"
    )
    assert validate(instance, schedule)[0].message == (
        "task 0 is not done: it needs 909 tokens of KV memory, 800 fit on stage 0 of node 0"
    )


def test_a_task_that_fits_nowhere_says_what_it_needs() -> None:
    instance = build([1, 0], [0.0, 0.0], held=1.0)
    c = instance.costs
    actual = Costs(c.forward_s, c.backward_s, [[[1.0, 11.0], [1.0, 1.0]]], c.resident_bytes)
    (reason,) = end_reasons(instance, run(instance, actual=actual), actual)
    assert (reason.task, reason.kind) == (0, "too_large")
    assert reason.text == "needs 11 bytes, 10 bytes fit on stage 1 of node 0"


def test_sizes_that_look_alike_are_given_in_bytes() -> None:
    held = np.array([[[1.0, 5 * GIB + 512]]])
    work = Workload([1], [0.0], 1, 8)
    costs = Costs(np.ones((1, 1, 2)), 1.0, np.ones((1, 1, 2)), 0.0)
    instance = Instance(Cluster(1, 2, 5 * GIB), work, costs)
    actual = replace(costs, held_bytes=held)
    schedule = simulate(instance, FixedAssignment((0,)), actual=actual)
    (reason,) = end_reasons(instance, schedule, actual)
    assert reason.text.startswith("needs 5368709632 bytes, 5368709120 bytes fit")


def test_a_task_that_gave_up_waiting_says_so() -> None:
    instance = build(
        [1, 0], [0.0, 0.0], held=6.0, gpu_order="fifo", memory_wait=MemoryWait(0.0, 1.0)
    )
    (reason,) = end_reasons(instance, run(instance))
    assert (reason.task, reason.kind) == (1, "out_of_memory")
    assert reason.text.startswith("ran out of memory on stage 0 of node 0 at")
    assert reason.text.endswith("needs 6 bytes, 10 bytes fit when it is empty")


def test_deferred_training_holds_up_the_loop_and_both_say_so() -> None:
    instance = build([1, 1, 1], [0.0, 0.0, 0.0])
    reasons = end_reasons(instance, simulate(instance, Deferring()))
    assert [r.kind for r in reasons] == ["deferred", "closed_loop", "closed_loop"]
    assert reasons_text(reasons) == (
        "task 0 was put off by the policy until the end; "
        "task 1 waits in the closed loop for task 0, which is not done (1 more like it)"
    )


def test_memory_that_is_never_freed_is_named() -> None:
    # Task 0 has begun and never goes on; what it holds keeps task 1 from starting.
    instance = build([1, 0], [0.0, 0.0], held=6.0)
    rows = Operations([0], [FORWARD], [0], [0], [0], [0.0], [2.0])
    schedule = Schedule([0, 0], rows, [UNFINISHED] * 2, [0.0, 0.0])
    first, second = end_reasons(instance, schedule)
    assert first.text == "never started its forward on stage 1 of node 0"
    assert second.kind == "memory"
    assert second.text == (
        "waits for memory on stage 0 of node 0: needs 6 bytes, 4 bytes are free at the end"
    )


@given(
    instances(max_tasks=9, beyond=True, shared=None) | generating(max_tasks=6),
    st.integers(0, 10**6),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_every_undone_task_has_one_reason(instance: Instance, seed: int, surprised: bool) -> None:
    plain = instance.generation is None
    actual = others(instance, seed) if surprised and plain else instance.costs
    schedule = simulate(instance, Whimsical(seed), actual=actual)
    reasons = end_reasons(instance, schedule, actual)
    undone = np.flatnonzero(schedule.end_state != DONE).tolist()
    assert [r.task for r in reasons] == undone
    assert all(r.text for r in reasons)
    told = [v.message for v in validate(instance, schedule) if v.rule == "not_done"]
    assert len(told) == len(undone)
    # A task that is dropped for good reason says which: more than fits, or a wait that is over.
    for reason in reasons:
        if schedule.end_state[reason.task] == 2:
            assert reason.kind in ("too_large", "out_of_memory")
            assert "needs" in reason.text
