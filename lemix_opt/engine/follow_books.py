"""State of the execution of a given order, for compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.planned import (
    NOISE_S,
    NONE,
    Layout,
    item_of,
    owner,
    phase_at,
    place_of,
    row_at,
    stage_at,
)
from lemix_opt.engine.queues import pop, push

# What falls on one moment: ends, planned drops, places given up, starts, and last the drops for
# lack of memory.
END, PLANNED_DROP, GIVE_WAY, START, LACK = range(5)
RANK_SHIFT = 60
COUNTS = 3
SIZE, BLOCKED, EVENTS = range(COUNTS)
"""Entries of `Progress.counts`: events to come, forwards that wait for memory, and out-of-memory
events."""
TODO = 5
RELEASED, FIRST_ITEM, LAST_ITEM, FIRST_GPU, LAST_GPU = range(TODO)
"""Entries of `Progress.todo`, what an event has changed: the task it released (−1: none), and the
ranges of items and of GPUs, without the last one, whose next operation may start now."""


class Given(NamedTuple):
    """What is executed, beside its layout: costs, rules and what the schedule tells.

    `told_s` holds the moments of a task's out-of-memory events from ``told_first[task]`` on, and
    `told_stage` their stages; `gives_way_s` is infinite for tasks that give up no place. `event` is
    the phase on the first stage that releases the next training task.
    """

    forward_s: npt.NDArray[np.float64]
    backward_s: npt.NDArray[np.float64]
    held_bytes: npt.NDArray[np.float64]
    hop_s: npt.NDArray[np.float64]
    closing_s: npt.NDArray[np.float64]
    room_bytes: npt.NDArray[np.float64]
    node_class: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]
    stored_s: npt.NDArray[np.float64]
    gives_way_s: npt.NDArray[np.float64]
    told_first: npt.NDArray[np.int64]
    told_stage: npt.NDArray[np.int64]
    told_s: npt.NDArray[np.float64]
    release_mode: int
    event: int
    flushes: int
    planned: int


class Progress(NamedTuple):
    """State of the execution, and what comes of it.

    By task: `own_s` (release outside of the closed loop), `release_s`, `end_state`, `gone`,
    `successor` in the loop, `loop_left` and `flush_left` (micro-batches that are still to pass what
    all of them have to pass), `gave_way_s`. By item: `at` (place in its chain), `ready_s` (NaN:
    not known) and `offered`. By row: `start_s` (NaN: it did not run), `end_s`. By GPU: `running`
    and `blocked` (operations or −1), `blocked_s`, `idle_from_s`, `turn`, `comes_back` (how many
    hold memory that comes back without a turn) and what is held, as an exact sum. The rest are the
    event that comes first (key −1: the heap has it), the heap of events, the out-of-memory events,
    counts and what is to be done after an event.
    """

    own_s: npt.NDArray[np.float64]
    release_s: npt.NDArray[np.float64]
    end_state: npt.NDArray[np.int64]
    gone: npt.NDArray[np.uint8]
    successor: npt.NDArray[np.int32]
    loop_left: npt.NDArray[np.int32]
    flush_left: npt.NDArray[np.int32]
    gave_way_s: npt.NDArray[np.float64]
    at: npt.NDArray[np.int32]
    ready_s: npt.NDArray[np.float64]
    offered: npt.NDArray[np.uint8]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    running: npt.NDArray[np.int64]
    blocked: npt.NDArray[np.int64]
    blocked_s: npt.NDArray[np.float64]
    idle_from_s: npt.NDArray[np.float64]
    turn: npt.NDArray[np.int64]
    comes_back: npt.NDArray[np.int64]
    partials: npt.NDArray[np.float64]
    terms: npt.NDArray[np.int64]
    first_s: npt.NDArray[np.float64]
    first_key: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    keys: npt.NDArray[np.int64]
    event_task: npt.NDArray[np.int64]
    event_stage: npt.NDArray[np.int64]
    event_s: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    todo: npt.NDArray[np.int64]


@inlined
def await_event(run: Progress, time_s: float, rank: int, number: int) -> None:
    """Put an event before the later ones.

    The first of all stays out of the heap: most starts come right after the end they wait for.
    """
    key = (rank << RANK_SHIFT) | int(number)
    size, first_s, first_key = run.counts[SIZE], run.first_s[0], run.first_key[0]
    alone = first_key == NONE
    if alone and size:
        first_s, first_key = run.times[0], run.keys[0]
    if first_key == NONE or time_s < first_s or (time_s == first_s and key < first_key):
        run.first_s[0], run.first_key[0] = time_s, key
        if alone:
            return
        time_s, key = first_s, first_key
    run.counts[SIZE] = push(run.times, run.keys, size, time_s, key)


@inlined
def next_event(run: Progress) -> tuple[float, int]:
    """Return time and key of the next event, which is awaited no more; −1 for the key: none."""
    time_s, key = run.first_s[0], run.first_key[0]
    if key != NONE:
        run.first_key[0] = NONE
    elif run.counts[SIZE]:
        time_s, key = run.times[0], run.keys[0]
        run.counts[SIZE] = pop(run.times, run.keys, run.counts[SIZE])
    return time_s, key


@inlined
def moment(given: Given, earliest_s: float, plan_s: float) -> float:
    """Return when something begins that could at `earliest_s`; noise does not shift plans."""
    if earliest_s > plan_s + NOISE_S:
        return earliest_s
    return plan_s if given.planned or earliest_s >= plan_s - NOISE_S else earliest_s


@inlined
def row_of(layout: Layout, number: int) -> int:
    """Return the row of the operation of a number."""
    item, place = item_of(number), place_of(number)
    task = owner(layout, item)
    part = item - task * layout.micro_batches
    return index(row_at(layout, task, phase_at(layout, place), stage_at(layout, place), part))


@inlined
def task_of(layout: Layout, number: int) -> int:
    """Return the task of the operation of a number."""
    return owner(layout, item_of(number))
