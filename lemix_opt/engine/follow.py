"""Execution of a given order: what comes of a schedule when the costs are others."""

from __future__ import annotations

from math import inf, nan

import numpy as np

from lemix_opt.costs import Costs
from lemix_opt.engine.books import ASYNC, GPIPE
from lemix_opt.engine.exact_sum import PARTIALS
from lemix_opt.engine.follow_books import COUNTS, EVENTS, TODO, Given, Progress
from lemix_opt.engine.follow_kernel import execute
from lemix_opt.engine.jit import called
from lemix_opt.engine.planned import NONE, Layout, Queues, queues_of
from lemix_opt.engine.table import columns_of, rows_that_ran
from lemix_opt.engine.view import fixed
from lemix_opt.engine.waiting_cycle import waiting_cycle
from lemix_opt.instance import PIPELINES, RELEASE_MODES, Instance
from lemix_opt.schedule import BACKWARD, FORWARD, Operations, Schedule


def follow(
    instance: Instance, actual: Costs, plan: Schedule, layout: Layout, planned: bool
) -> Schedule:
    """Execute a schedule in its own order, as early as possible.

    Parameters
    ----------
    instance : Instance
        Rules and releases.
    actual : Costs
        Seconds and bytes that really happen.
    plan : Schedule
        Placement and order; every micro-batch holds a beginning of its chain.
    layout : Layout
        What `layout_of` makes of the schedule.
    planned : bool
        Whether operations also wait for their planned starts.

    Raises
    ------
    LemixError
        If operations wait for each other in a cycle.
    """
    given = _given(instance, actual, plan, planned)
    queues = queues_of(instance, actual, layout)
    run = _progress(instance, plan, layout, queues)
    stuck = int(called(execute, layout, queues, given, run))
    if stuck != NONE:
        raise waiting_cycle(layout, queues, given, run, stuck)
    events = int(run.counts[EVENTS])
    who = run.event_task[:events]
    stage, time_s = run.event_stage[:events].tolist(), run.event_s[:events].tolist()
    gave_way = np.flatnonzero(np.isfinite(run.gave_way_s))
    return Schedule(
        plan.node,
        _operations(plan, layout, run),
        run.end_state,
        run.release_s,
        tuple(zip(who.tolist(), stage, plan.node[who].tolist(), time_s, strict=True)),
        gave_way=tuple(zip(gave_way.tolist(), run.gave_way_s[gave_way].tolist(), strict=True)),
    )


def _given(instance: Instance, costs: Costs, plan: Schedule, planned: bool) -> Given:
    tasks, cluster = instance.tasks, instance.cluster
    # The last event of a task and stage, and the last place given up by a task, count.
    told = {(i, s): time_s for i, s, _, time_s in plan.out_of_memory if 0 <= i < tasks}
    told = dict(sorted(told.items()))
    gives_way_s = np.full(tasks, inf)
    for task, time_s in plan.gave_way:
        gives_way_s[task] = time_s
    first = np.searchsorted([i for i, _ in told], np.arange(tasks + 1))
    room = instance.capacity_bytes - costs.resident_bytes[cluster.node_class]
    return Given(
        fixed(costs.forward_s, np.float64),
        fixed(costs.backward_s, np.float64),
        fixed(costs.held_bytes, np.float64),
        fixed(costs.hop_s, np.float64),
        fixed(costs.closing_s, np.float64),
        fixed(room.reshape(-1), np.float64),
        fixed(cluster.node_class, np.int64),
        fixed(plan.end_state, np.int64),
        fixed(plan.release_s, np.float64),
        fixed(gives_way_s, np.float64),
        fixed(first, np.int64),
        fixed(np.array([s for _, s in told], dtype=np.int64), np.int64),
        fixed(np.array(list(told.values()), dtype=np.float64), np.float64),
        RELEASE_MODES.index(instance.release_mode),
        FORWARD if RELEASE_MODES.index(instance.release_mode) == ASYNC else BACKWARD,
        int(PIPELINES.index(instance.pipeline) == GPIPE),
        int(planned),
    )


def _progress(instance: Instance, plan: Schedule, layout: Layout, queues: Queues) -> Progress:
    """Return the state before anything has run."""
    tasks, items, rows = instance.tasks, layout.chain.size, layout.plan_row.size
    gpus = instance.cluster.nodes * instance.cluster.stages
    parts = np.where(layout.training, layout.micro_batches, 1).astype(np.int32)
    # At most one event of every item awaits its moment, and two of every task.
    room = items + 2 * tasks + 1
    return Progress(
        own_s=np.array(instance.workload.release_s, dtype=np.float64),
        release_s=np.full(tasks, inf),
        end_state=np.array(plan.end_state, dtype=np.int64),
        gone=np.zeros(tasks, dtype=np.uint8),
        successor=np.full(tasks, NONE, dtype=np.int32),
        loop_left=parts,
        flush_left=parts.copy(),
        gave_way_s=np.full(tasks, nan),
        at=np.zeros(items, dtype=np.int32),
        ready_s=np.full(items, nan),
        offered=np.zeros(items, dtype=np.uint8),
        start_s=np.full(rows, nan),
        end_s=np.empty(rows),
        running=np.full(gpus, NONE, dtype=np.int64),
        blocked=np.full(gpus, NONE, dtype=np.int64),
        blocked_s=np.empty(gpus),
        idle_from_s=np.full(gpus, -inf),
        turn=queues.begin[:-1].copy(),
        comes_back=np.zeros(gpus, dtype=np.int64),
        partials=np.empty((gpus, PARTIALS)),
        terms=np.zeros(gpus, dtype=np.int64),
        first_s=np.empty(1),
        first_key=np.full(1, NONE, dtype=np.int64),
        times=np.empty(room),
        keys=np.empty(room, dtype=np.int64),
        event_task=np.empty(tasks, dtype=np.int64),
        event_stage=np.empty(tasks, dtype=np.int64),
        event_s=np.empty(tasks),
        counts=np.zeros(COUNTS, dtype=np.int64),
        todo=np.empty(TODO, dtype=np.int64),
    )


def _operations(plan: Schedule, layout: Layout, run: Progress) -> Operations:
    """Return the rows that ran."""
    o, ran = plan.operations, ~np.isnan(run.start_s)
    if o.rows != np.count_nonzero(ran) or np.any(ran != (layout.plan_row != NONE)):
        columns = columns_of(layout.first, layout.node, layout.stages, layout.micro_batches)
        return rows_that_ran(columns, run.start_s, run.end_s)
    # What ran is what was planned: other times of the same operations.
    times = (run.start_s, run.end_s) if ran.all() else (run.start_s[ran], run.end_s[ran])
    return Operations.trusted(o.task, o.phase, o.stage, o.micro_batch, o.node, *times)
