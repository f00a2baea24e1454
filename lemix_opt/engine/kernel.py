"""The event loop, compiled: releases, decisions, starts and ends in order of time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import inf, isnan, nan
from typing import Any

from numba import types

from lemix_opt.engine.batches import BATCHES_T, CONTINUOUS, REFERENCE, Batches
from lemix_opt.engine.books import (
    ASYNC,
    BOOKS_T,
    GPIPE,
    NONE,
    PLAIN_RULES_T,
    RULES_T,
    STATE_T,
    TRUTH_T,
    Books,
    Rules,
    Truth,
)
from lemix_opt.engine.clock import answer_of
from lemix_opt.engine.codes import (
    ASK,
    DEFER_INFERENCE,
    DEFER_INFERENCE_YIELD,
    DEFER_TIME,
    DEFER_TIME_YIELD,
    ENDLESS_DEFERRALS,
    PAUSE_ROUNDS,
    SEES_ASSIGN,
    SEES_DROP,
    SEES_END,
    SEES_START,
    STUCK_DEFERRALS,
    TOLD_BAD_NODE,
    TOLD_BAD_TIME,
    TOLD_DROP,
    TOLD_ENDLESS,
    TOLD_FULL,
    TOLD_ITERATIONS,
    TOLD_PAUSE,
)
from lemix_opt.engine.iterations import form
from lemix_opt.engine.jit import compiled, index
from lemix_opt.engine.lanes import slow_down, speed_up
from lemix_opt.engine.offload import end_move, has_left
from lemix_opt.engine.parts import end_part, task_of
from lemix_opt.engine.plain import (
    generation_of,
    offloads_of,
    parts_of,
    sync_every_of,
    threads_of,
    timed_of,
)
from lemix_opt.engine.queues import (
    ITEM_SHIFT,
    LARGEST,
    PHASE_SHIFT,
    RANK_ARRIVE,
    RANK_DECIDE,
    RANK_LOOK,
    RANK_RETRY,
    RANK_SHIFT,
    SERIAL_SHIFT,
    operation_key,
    pop,
    push,
    queue_up,
    retry_key,
    set_end,
    take_ends,
)
from lemix_opt.engine.reference_batches import arrive, end_iteration, push_alarm
from lemix_opt.engine.signatures import DECIDE_T, OBSERVE_T
from lemix_opt.engine.steps import (
    dispatch,
    drop_parts,
    fits_alone,
    forget,
    free,
    give_way,
    release_after,
    row_of,
    touch,
    waits_for,
)
from lemix_opt.engine.turns import take_turns
from lemix_opt.engine.view import VIEW_T, View
from lemix_opt.engine.waits import look, note_failure
from lemix_opt.schedule import BACKWARD, DEFERRED, DONE, DROPPED, FORWARD, SYNC, UNFINISHED, UPDATE

RANK_END = -1
"""Ends come before all else that falls on their moment."""


@lru_cache(maxsize=2)
def kernel(plain: bool = True) -> Any:
    """Return the compiled event loop, for plain rules or for those beyond them.

    The first call of a fresh installation compiles it.
    """
    return compiled(
        run,
        (
            VIEW_T,
            VIEW_T,
            TRUTH_T,
            BOOKS_T,
            BATCHES_T,
            PLAIN_RULES_T if plain else RULES_T,
            types.FunctionType(DECIDE_T),
            types.FunctionType(OBSERVE_T),
            STATE_T,
            STATE_T,
        ),
    )


def run(
    view: View,
    shown: View,
    truth: Truth,
    books: Books,
    batches: Batches,
    rules: Rules,
    decide: Any,
    observe: Any,
    state: Any,
    talk: Any,
) -> Iterator[int]:
    """Run to the end; yield whenever the driver has to act.

    A yielded task (≥ 0) waits for an answer in ``talk[1]`` (code) and ``talk[2]`` (time); negative
    values are ``TOLD_…`` codes. ``talk[0]`` is the time in seconds; ``talk[3:7]`` hold task,
    stage, node and answer of what is told, ``talk[7:9]`` decisions and their nanoseconds.

    `shown` is what policies see. Where requests generate tokens, `view` and `truth` have a row more
    per node: its iterations are forwards of a task of that number.
    """
    N, S = rules.nodes, rules.stages
    watched = rules.watched
    times, keys, waiting = books.times, books.keys, books.waiting
    touched, is_touched = books.touched, books.is_touched
    ends, first_end = books.gpu_end_s, books.first_end
    size, waits, touches = 0, 0, 0
    serial, coming, trained, fails, now = 0, 0, 0, 0, 0.0
    # Retries among the events, deferrals since anything else happened, and turns of this loop.
    retries, deferrals, rounds = 0, 0, 0
    arrivals = books.arrivals
    last_stage, tasks = S - 1, rules.tasks

    while True:
        rounds += 1
        if rounds & (PAUSE_ROUNDS - 1) == 0:
            yield TOLD_PAUSE
        if rules.recorded and state[1] >= rules.recorded:
            yield TOLD_FULL
        # Tasks that did not get their memory.
        for at in range(1, fails + 1):
            item = index(books.failed[at])
            task = index(task_of(rules, item))
            node = index(books.node[task])
            place = int(books.place[item])
            phase, stage = place // S, place % S
            touches = touch(touched, is_touched, touches, node)
            # What it holds on the stages it has been to is free again.
            if parts_of(rules) > 1 and view.training[task]:
                drop_parts(view, truth, books, rules, task, node, stage)
            else:
                forget(books, rules, item, node)
                for s in range(stage + phase if view.training[task] else 0):
                    if not (offloads_of(rules) and has_left(books, rules, task, node, s)):
                        free(view, truth, books, rules, task, node, s)
                if phase == BACKWARD and threads_of(rules):
                    books.running[node * S + last_stage] = 0
            books.end_state[task] = DROPPED
            talk[3], talk[4], talk[5] = task, stage, node
            yield TOLD_DROP
            if watched >> SEES_DROP & 1:
                reached = stage if generation_of(rules) == 0 or view.training[task] else 0
                observe(SEES_DROP, now, task, node, phase, reached, nan, shown, state)
            size = release_after(view, books, times, keys, size, task, now)
            for k in range(waits):
                serial += 1
                size = push(times, keys, size, now, retry_key(serial, waiting[k]))
            retries, waits, deferrals = retries + waits, 0, 0
        if fails:
            fails = 0
            books.failed[0] = 0
        # What comes next: ends, arrivals, decisions, repeated ones.
        next_s, rank = ends[first_end[1]], RANK_END
        own = False
        if size and times[0] < next_s:
            next_s, rank = times[0], keys[0] >> RANK_SHIFT
        if coming < arrivals.size:
            task = index(arrivals[coming])
            release = view.release_s[task]
            if release < next_s or (
                release == next_s
                and (
                    rank >= RANK_RETRY
                    or (rank == RANK_DECIDE and task < (keys[0] >> ITEM_SHIFT) & 0xFFFFFFFF)
                )
            ):
                next_s, rank, own = release, RANK_DECIDE, True
        if touches and next_s > now:
            for at in range(touches):
                node = index(touched[at])
                is_touched[node] = 0
                if timed_of(rules) or threads_of(rules):
                    size = take_turns(
                        view, truth, books, rules, observe, state, times, keys, size, node, now
                    )
                    continue
                if generation_of(rules) == CONTINUOUS:
                    form(view, truth, books, batches, rules, node, now)
                dispatch(view, shown, truth, books, batches, rules, observe, state, node, now)
                if generation_of(rules) == REFERENCE:
                    size = push_alarm(books, batches, rules, times, keys, size, node)
            touches = 0
            fails = books.failed[0]
            continue
        if next_s == inf:
            return
        now = next_s
        talk[0] = now

        if rank == RANK_END:
            deferrals = 0
            for number in range(take_ends(books, now)):
                slot = index(books.ending[number])
                gpu = slot % (N * S) if threads_of(rules) else slot
                key = books.gpu_key[slot]
                item = (key >> ITEM_SHIFT) & 0xFFFFFFFF
                phase = (key >> PHASE_SHIFT) & 7
                stage = key & 0x3FFF
                task = index(task_of(rules, item))
                node = index(books.node[task])
                kind = view.node_class[node]
                trains = view.training[task]
                books.running[slot] = 0
                if threads_of(rules):
                    speed_up(view, books, rules, slot, now)
                books.wants[gpu] = waits_for(books, rules, node, stage)
                touches = touch(touched, is_touched, touches, node)
                if phase >= SYNC:
                    if phase != SYNC:
                        end_move(view, truth, books, rules, item, phase, node, stage, now)
                    continue
                parted = parts_of(rules) > 1 and trains
                last_part = True
                if parted and phase != UPDATE:
                    if books.end_state[task] == DROPPED:
                        free(view, truth, books, rules, task, node, stage)
                        continue
                    last_part = end_part(view, truth, books, rules, task, node, phase, stage)
                elif phase == BACKWARD or (phase == FORWARD and not trains):
                    free(view, truth, books, rules, task, node, stage)
                if last_part and watched >> SEES_END & 1 and task < rules.tasks:
                    used = books.used_bytes[gpu]
                    observe(SEES_END, now, task, node, phase, stage, used, shown, state)
                books.left[task] -= 1
                to_phase, to_stage, hop = -1, 0, 0.0
                freed = -1
                if phase == FORWARD:
                    if stage == 0 and rules.release_mode == ASYNC and trains and last_part:
                        freed = task
                    if stage < last_stage:
                        to_phase, to_stage = FORWARD, stage + 1
                        hop = truth.hop_s[kind, task, stage]
                    elif trains and not (parted and rules.pipeline == GPIPE):
                        to_phase, to_stage = BACKWARD, last_stage
                        # The last stage's thread sees to all backwards and updates first.
                        books.running[slot] = threads_of(rules)
                    elif trains and last_part:
                        for sibling in range(task * parts_of(rules), (task + 1) * parts_of(rules)):
                            queue_up(books, rules, sibling, node, BACKWARD, last_stage, now)
                elif phase == BACKWARD:
                    if stage > 0:
                        to_phase, to_stage = BACKWARD, stage - 1
                        hop = truth.hop_s[kind, task, stage - 1]
                    elif last_part:
                        freed = task
                if to_phase >= 0:
                    if hop == 0.0 and (
                        to_phase == BACKWARD or fits_alone(view, truth, rules, task, node, to_stage)
                    ):
                        queue_up(books, rules, item, node, to_phase, to_stage, now)
                    else:
                        books.place[item] = to_phase * S + to_stage
                        books.begun_s[item] = now + hop
                        coming_key = operation_key(RANK_ARRIVE, item, to_phase, to_stage)
                        size = push(times, keys, size, now + hop, coming_key)
                        books.hops[node] += 1
                if freed >= 0:
                    size = release_after(view, books, times, keys, size, freed, now)
                if phase == BACKWARD and last_part and truth.update_s[kind, stage] > 0.0:
                    books.running[slot] = 1
                    books.wants[gpu] = 0
                    end = now + truth.update_s[kind, stage]
                    row = index(row_of(books, rules, view, item, UPDATE, stage))
                    books.start_s[row] = now
                    books.end_s[row] = end
                    set_end(books, slot, end, operation_key(0, item, UPDATE, stage))
                    if threads_of(rules):
                        slow_down(view, books, rules, slot, now)
                    if watched >> SEES_START & 1:
                        observe(
                            SEES_START,
                            now,
                            task,
                            node,
                            UPDATE,
                            stage,
                            books.used_bytes[gpu],
                            shown,
                            state,
                        )
                if books.left[task] == 0:
                    done = 1
                    if task < rules.tasks:
                        books.end_state[task] = DONE
                        if threads_of(rules) and trains:
                            books.running[node * S + last_stage] = 0
                        if sync_every_of(rules) and trains and truth.sync_s[node] > 0.0:
                            trained += 1
                            if trained % sync_every_of(rules) == 0:
                                books.sync_task[node] = task
                                last_gpu = index(node * S + last_stage)
                                books.wants[last_gpu] = books.running[last_gpu] == 0
                    else:
                        done = end_iteration(
                            view, shown, truth, books, batches, rules, observe, state, node, now
                        )
                        if batches.filled[0] == batches.table.shape[1]:
                            yield TOLD_ITERATIONS
                    if done and not trains and waits:
                        for k in range(waits):
                            serial += 1
                            size = push(times, keys, size, now, retry_key(serial, waiting[k]))
                        retries, waits = retries + waits, 0
            continue

        if rank == RANK_LOOK:
            key = keys[0]
            size = pop(times, keys, size)
            item = (key >> ITEM_SHIFT) & 0xFFFFFFFF
            waited = not isnan(books.deadline_s[item])
            size = look(view, truth, books, rules, times, keys, size, item, now)
            if waited and (offloads_of(rules) or isnan(books.deadline_s[item])):
                touches = touch(touched, is_touched, touches, books.node[item])
            fails = books.failed[0]
            continue

        if rank == RANK_ARRIVE:
            key = keys[0]
            size = pop(times, keys, size)
            item = (key >> ITEM_SHIFT) & 0xFFFFFFFF
            phase = (key >> PHASE_SHIFT) & 7
            stage = key & 0x3FFF
            task = index(task_of(rules, item))
            books.hops[books.node[task]] -= 1
            first_item, last_item = item, item
        else:
            if own:
                coming += 1
                task = index(arrivals[coming - 1])
                books.release_s[task] = now
            else:
                key = keys[0]
                size = pop(times, keys, size)
                if rank == RANK_DECIDE:
                    task = (key >> ITEM_SHIFT) & 0xFFFFFFFF
                else:
                    task = key & ((1 << SERIAL_SHIFT) - 1)
                    retries -= 1
            answer = answer_of(decide, now, task, shown, state, rules, talk)
            at_s = state[0]
            if answer == ASK:
                yield task
                answer, at_s = int(talk[1]), talk[2]
            if answer < 0:
                deferrals += 1
                alone = size == retries and coming == arrivals.size and ends[first_end[1]] == inf
                most = STUCK_DEFERRALS if alone else ENDLESS_DEFERRALS
                if deferrals >= most or serial + tasks >= LARGEST - 1:
                    talk[3], talk[4], talk[5] = task, deferrals, serial
                    yield TOLD_ENDLESS
                    return
                books.end_state[task] = DEFERRED
                if answer in (DEFER_INFERENCE_YIELD, DEFER_TIME_YIELD):
                    size = give_way(view, books, times, keys, size, task, now)
                if answer in (DEFER_INFERENCE, DEFER_INFERENCE_YIELD):
                    waiting[waits] = task
                    waits += 1
                    continue
                if answer in (DEFER_TIME, DEFER_TIME_YIELD) and now < at_s < inf:
                    serial += 1
                    retries += 1
                    size = push(times, keys, size, at_s, retry_key(serial, task))
                    continue
                talk[3], talk[4], talk[6] = task, at_s, answer
                yield TOLD_BAD_TIME if answer >= DEFER_TIME_YIELD else TOLD_BAD_NODE
                return
            if answer >= N:
                talk[3], talk[6] = task, answer
                yield TOLD_BAD_NODE
                return
            deferrals = 0
            books.node[task] = answer
            books.end_state[task] = UNFINISHED
            if watched >> SEES_ASSIGN & 1:
                observe(SEES_ASSIGN, now, task, answer, -1, -1, nan, shown, state)
            phase, stage = FORWARD, 0
            first_item = last_item = task * parts_of(rules)
            books.left[task] = S
            if view.training[task]:
                last_item += parts_of(rules) - 1
                books.left[task] = 2 * S * parts_of(rules) + books.updates[view.node_class[answer]]

        # An arrival at a GPU's queue, from a hop or by placement.
        if books.end_state[task] == DROPPED:
            continue
        node = index(books.node[task])
        touches = touch(touched, is_touched, touches, node)
        lacks = stage
        if generation_of(rules) and not view.training[task]:
            lacks = arrive(view, truth, books, batches, rules, first_item, phase, stage, now)
            if lacks == NONE:
                continue
        elif phase == BACKWARD or fits_alone(view, truth, rules, task, node, stage):
            for item in range(first_item, last_item + 1):
                queue_up(books, rules, item, node, phase, stage, now)
            continue
        books.place[first_item] = phase * S + lacks
        note_failure(books, first_item)
        fails = 1
