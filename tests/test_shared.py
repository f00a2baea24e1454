"""Waiting for memory by the clock, and two operations on one GPU."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances
from test_engine import B, F, U, build, run, starts
from test_kernel import Whimsical, others

from lemix_opt import Contention, Instance, MemoryWait, Trace, replay, simulate, validate
from lemix_opt.errors import FieldError, UnsupportedError
from lemix_opt.graph import critical_path
from lemix_opt.policy import FixedAssignment
from lemix_opt.schedule import DEFERRED, DROPPED, OFFLOAD, PHASES, RELOAD, UNFINISHED, Schedule
from solvers import solve

THRESHOLD: dict[str, Any] = {"memory_rule": "reference_threshold"}
THREADS: dict[str, Any] = {"gpu_sharing": "reference_threads", "gpu_order": "task_id"}


def ends(schedule: Schedule) -> dict[tuple[int, int, int], float]:
    o = schedule.operations
    return {
        (int(t), int(p), int(s)): float(e)
        for t, p, s, e in zip(o.task, o.phase, o.stage, o.end_s, strict=True)
    }


@settings(max_examples=300, deadline=None)
@given(instances(max_tasks=12, beyond=True, shared=True), st.integers(0, 2**32 - 1), st.booleans())
def test_nothing_is_lost_and_complete_schedules_follow_their_rules(
    instance: Instance, seed: int, surprised: bool
) -> None:
    where = np.random.default_rng(seed).integers(0, instance.cluster.nodes, instance.tasks)
    actual = others(instance, seed) if surprised else None
    schedule = simulate(instance, FixedAssignment(tuple(where.tolist())), actual=actual)
    lost = [task for task, *_ in schedule.out_of_memory]
    assert sorted(lost) == np.flatnonzero(schedule.end_state == DROPPED).tolist()
    assert np.isin(schedule.end_state, [DEFERRED, UNFINISHED]).sum() == 0
    if not surprised:
        found = {violation.rule for violation in validate(instance, schedule)}
        assert found == ({"not_done"} if lost else set())


@settings(max_examples=100, deadline=None)
@given(instances(max_tasks=12, beyond=True, shared=None), st.integers(0, 10**6), st.booleans())
def test_every_task_ends_in_one_state_under_any_policy(
    instance: Instance, seed: int, surprised: bool
) -> None:
    actual = others(instance, seed) if surprised else None
    schedule = simulate(instance, Whimsical(seed), actual=actual)
    lost = [task for task, *_ in schedule.out_of_memory]
    assert sorted(lost) == np.flatnonzero(schedule.end_state == DROPPED).tolist()
    ran = np.bincount(schedule.operations.task, minlength=instance.tasks)
    whole = np.where(instance.workload.is_training, 2, 1) * instance.cluster.stages
    assert np.all(ran[schedule.end_state == 0] >= whole[schedule.end_state == 0])
    # What was never placed was put off by the policy, or waits behind such a task.
    assert np.all(np.isin(schedule.end_state[schedule.node < 0], [DEFERRED, UNFINISHED]))


def test_the_threshold_does_not_ask_what_a_forward_needs() -> None:
    # 8 of 10 bytes may be in use before a forward, which then takes 4 more or fails.
    kind, held = [1, 1, 0], [5.0, 4.0, 2.0]
    rules = THRESHOLD | {"memory_fraction": 0.8, "stages": 1, "release_mode": "open"}
    schedule = run(build(kind, [0.0, 0.0, 0.0], held=held, gpu_order="fifo", **rules))
    begin = starts(schedule)
    assert (begin[0, F, 0], begin[1, F, 0]) == (0.0, 2.0)
    # With 9 bytes in use, task 2 keeps the GPU from 4 and looks every 0.1 s until it fails at 14,
    # then the backward of task 0 does so until 24.
    assert schedule.out_of_memory == ((2, 0, 0, 14.0), (0, 0, 0, 24.0))
    assert schedule.end_state.tolist() == [DROPPED, 0, DROPPED]
    assert begin[1, B, 0] == 24.0


def test_a_forward_that_exceeds_the_gpu_is_an_out_of_memory_event() -> None:
    rules = THRESHOLD | {"stages": 1, "release_mode": "open", "gpu_order": "fifo"}
    schedule = run(build([1, 1, 0], [0.0, 0.0, 0.0], held=[7.0, 4.0, 2.0], **rules))
    assert schedule.out_of_memory == ((1, 0, 0, 2.0),)
    assert starts(schedule)[2, F, 0] >= 2.0
    assert schedule.end_state.tolist() == [0, DROPPED, 0]


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_the_closed_loop_goes_on_at_a_drop(mode: str) -> None:
    rules = THRESHOLD | {"memory_fraction": 0.5, "stages": 1, "release_mode": mode}
    schedule = run(build([1, 1], [0.0, 0.0], held=[6.0, 1.0], **rules))
    dropped_s = schedule.out_of_memory[0][3]
    assert dropped_s == pytest.approx(12.0)
    assert schedule.release_s[1] == (2.0 if mode == "async" else dropped_s)
    assert schedule.end_state.tolist() == [DROPPED, 0]


def test_memory_is_looked_at_every_poll() -> None:
    # Task 1 first looks at 2.0, then every 1.5 s; the memory is free at 6.
    waits = MemoryWait(poll_s=1.5, max_wait_s=100)
    kw: dict[str, Any] = {"stages": 1, "held": 6.0, "release_mode": "open", "gpu_order": "fifo"}
    late = run(build([1, 1], [0.0, 0.0], memory_wait=waits, **kw))
    at_once = run(build([1, 1], [0.0, 0.0], memory_wait=MemoryWait(), **kw))
    assert starts(late)[1, F, 0] == 6.5
    assert starts(at_once)[1, F, 0] == 6.0
    assert at_once == run(build([1, 1], [0.0, 0.0], **kw))


def test_a_task_that_waits_too_long_is_dropped() -> None:
    kw: dict[str, Any] = {"stages": 1, "held": 6.0, "release_mode": "open", "gpu_order": "fifo"}
    schedule = run(build([1, 1], [0.0, 0.0], memory_wait=MemoryWait(max_wait_s=3), **kw))
    assert schedule.out_of_memory == ((1, 0, 0, 5.0),)
    patient = run(build([1, 1], [0.0, 0.0], memory_wait=MemoryWait(max_wait_s=4), **kw))
    assert patient.complete


def test_activations_leave_for_a_forward_and_come_back_for_their_backward() -> None:
    # Task 0 holds 6 of 10 bytes on both stages until its backwards; task 1 asks for 6 on stage 0
    # at 2 and, 1 s later, has them moved out at 3 bytes a second.
    waits = MemoryWait(max_wait_s=1.0, offload_bytes_per_s=3.0)
    held = np.array([[[6.0, 6.0], [6.0, 1.0]]])
    kw: dict[str, Any] = {"held": held, "gpu_order": "backward_first", "forward": 2.0}
    instance = build([1, 0], [0.0, 0.0], memory_wait=waits, backward=9.0, **kw)
    schedule = run(instance)
    begin, over = starts(schedule), ends(schedule)
    assert (begin[0, OFFLOAD, 0], over[0, OFFLOAD, 0]) == (3.0, 5.0)
    assert begin[1, F, 0] == 5.0
    # The backward of stage 1 lasts from 4 to 13; the memory of stage 0 is taken again then.
    assert (begin[0, RELOAD, 0], over[0, RELOAD, 0], begin[0, B, 0]) == (13.0, 15.0, 15.0)
    assert schedule.complete
    assert validate(instance, schedule) == []
    path = [(s.reason, PHASES[s.phase], s.task) for s in critical_path(instance, schedule)]
    assert path[-3:] == [("run", "backward", 0), ("run", "reload", 0), ("run", "backward", 0)]
    slower = replace(instance, memory_wait=replace(waits, offload_bytes_per_s=2.0))
    assert {v.rule for v in validate(slower, schedule)} == {"duration"}
    never = replace(instance, memory_wait=None)
    assert {v.rule for v in validate(never, schedule)} == {"operations"}


@settings(max_examples=200, deadline=None)
@given(
    instances(max_tasks=12, memory_wait=MemoryWait(0.0, 0.5, 2.0)),
    st.integers(0, 2**32 - 1),
)
def test_with_offloading_nothing_is_dropped(instance: Instance, seed: int) -> None:
    where = np.random.default_rng(seed).integers(0, instance.cluster.nodes, instance.tasks)
    schedule = simulate(instance, FixedAssignment(tuple(where.tolist())))
    assert schedule.complete
    assert validate(instance, schedule) == []


def test_a_forward_runs_beside_a_backward_but_not_on_the_last_stage() -> None:
    # Task 0 goes down 0-2, 2-4, and up 4-8 on the last stage, 8-12 on the first.
    schedule = run(build([1, 0, 0], [0.0, 0.0, 9.0], **THREADS))
    begin = starts(schedule)
    assert begin[0, B, 0] == 8.0
    assert begin[1, F, 0] == 2.0
    # The last stage's thread runs all backwards before its next forward.
    assert begin[1, F, 1] == 12.0
    assert begin[2, F, 0] == 9.0
    assert validate(build([1, 0, 0], [0.0, 0.0, 9.0], **THREADS), schedule) == []
    plain = build([1, 0, 0], [0.0, 0.0, 9.0], gpu_order="task_id")
    assert "exclusive" in {v.rule for v in validate(plain, schedule)}


def test_the_update_keeps_the_last_stage_too() -> None:
    begin = starts(run(build([1, 0], [0.0, 0.0], update=3.0, **THREADS)))
    assert (begin[0, U, 1], begin[0, B, 0], begin[0, U, 0]) == (8.0, 8.0, 12.0)
    assert begin[1, F, 1] == 15.0


def test_what_is_left_is_stretched_while_two_operations_overlap() -> None:
    # The forward of task 1 meets the backward on stage 0 from 9: 2 s at 1/2, 3 s of 4 at 1/3.
    contended = build(
        [1, 0], [0.0, 9.0], contention=Contention(forward=2.0, backward=3.0), **THREADS
    )
    schedule = run(contended)
    over = ends(schedule)
    # The forward ends at 9 + 2·2; by then the backward has done 1 + 4/3 of its 4 seconds.
    assert over[1, F, 0] == 13.0
    assert over[0, B, 0] == pytest.approx(13.0 + 4 - 1 - 4 / 3)
    assert validate(contended, schedule) == []
    faster = replace(contended, contention=Contention(forward=2.0, backward=2.0))
    assert {v.rule for v in validate(faster, schedule)} == {"duration"}


def test_a_start_above_the_threshold_is_found() -> None:
    kind, held = [1, 1], [5.0, 4.0]
    rules = {"stages": 1, "release_mode": "open", "gpu_order": "fifo"}
    instance = build(kind, [0.0, 0.0], held=held, **rules)
    schedule = run(instance)
    assert validate(instance, schedule) == []
    strict = replace(instance, memory_fraction=0.6, **THRESHOLD)
    assert {v.rule for v in validate(strict, schedule)} == {"threshold"}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (THREADS, "gpu_sharing 'reference_threads'"),
        (THRESHOLD, "memory_rule 'reference_threshold'"),
        ({"memory_wait": MemoryWait(max_wait_s=1.0)}, "memory_wait MemoryWait"),
    ],
)
def test_what_lies_beyond_the_exact_model_says_so(rules: dict[str, Any], said: str) -> None:
    instance = build([0], [0.0], **rules)
    with pytest.raises(UnsupportedError, match=said):
        solve(instance, "cpsat")
    with pytest.raises(UnsupportedError, match=said):
        replay(Trace(instance, instance.costs, "synthetic", "made up"), run(instance))
    trace = Trace(instance, instance.costs, "synthetic", "made up")
    assert replay(trace, FixedAssignment((0,))).schedule.complete
    assert said in solve(instance, "mix-rr").explanation


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"contention": Contention(2.0)}, "gpu_sharing 'reference_threads'"),
        ({"pipeline": "gpipe", "micro_batches": 2, **THRESHOLD}, "micro_batches"),
        ({"memory_wait": 3.0}, "memory_wait"),
        ({"memory_wait": MemoryWait(0.0, 1.0, 1.0), **THREADS}, "offload_bytes_per_s"),
        ({"memory_wait": MemoryWait(), **THRESHOLD}, "max_wait_s"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError, match=said):
        build([0], [0.0], **rules)


def test_waits_and_factors_out_of_range_are_named() -> None:
    with pytest.raises(FieldError, match=r"contention\.backward"):
        Contention(backward=0.5)
    for poll_s in (inf, -1.0, 1e-9):
        with pytest.raises(FieldError, match=r"memory_wait\.poll_s"):
            MemoryWait(poll_s=poll_s)
    with pytest.raises(FieldError, match=r"memory_wait\.max_wait_s"):
        MemoryWait(max_wait_s=-1.0)
    with pytest.raises(FieldError, match="finite max_wait_s"):
        MemoryWait(offload_bytes_per_s=1.0)
