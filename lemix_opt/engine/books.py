"""What the kernel reads and writes: columns of the problem, of the truth, and of the run."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from lemix_opt.contention import Contention
from lemix_opt.costs import Costs
from lemix_opt.engine.view import fixed
from lemix_opt.generation import GENERATION_RULES
from lemix_opt.instance import (
    GPU_ORDERS,
    GPU_SHARINGS,
    MEMORY_RULES,
    PIPELINES,
    PLAIN_RULES,
    RELEASE_MODES,
    Instance,
)

ORDER_RESERVE, ORDER_BACKWARD_FIRST, ORDER_FIFO, ORDER_TASK_ID = range(len(GPU_ORDERS))
ASYNC, SYNC, OPEN = range(len(RELEASE_MODES))
PLAIN, GPIPE, ONE_F_ONE_B = range(len(PIPELINES))
NONE = -1


class Truth(NamedTuple):
    """Costs that really happen, by node class; resident bytes by node and stage.

    Seconds are those of one micro-batch. `held_bytes` is the most a task holds at once
    (`Instance.peak_bytes`), `update_s` all of the update operation (`Costs.closing_s`). `sync_s`
    holds the seconds of a weight synchronisation by sending node, 0 where none is sent.
    """

    forward_s: npt.NDArray[np.float64]
    backward_s: npt.NDArray[np.float64]
    held_bytes: npt.NDArray[np.float64]
    hop_s: npt.NDArray[np.float64]
    update_s: npt.NDArray[np.float64]
    resident_bytes: npt.NDArray[np.float64]
    sync_s: npt.NDArray[np.float64]


class Rules(NamedTuple):
    """The rules of execution as numbers; `beyond` is None where all of them are plain.

    `threshold` is the published memory rule, `timed` says whether operations wait for memory by
    the clock, `threads` whether a GPU has a second lane, and `clocked` whether the wall time of
    decisions is measured.
    """

    beyond: int | None
    nodes: int
    stages: int
    micro_batches: int
    order: int
    one_order: int
    release_mode: int
    pipeline: int
    sync_every: int
    watched: int
    recorded: int
    clocked: int
    threshold: int
    timed: int
    threads: int
    offloads: int
    generation: int
    tasks: int
    poll_s: float
    max_wait_s: float
    forward_slow: float
    backward_slow: float
    offload_bytes_per_s: float


class Books(NamedTuple):
    """State of a run: results by task and operation, queues, memory of every GPU.

    An item is one micro-batch of one task; `ready_s`, `after` and `before` hold the queue it
    waits in, `place` its phase and stage and `begun_s` when that operation starts (NaN: waiting).
    `hops` counts the items on their way between GPUs of a node. Only with micro-batches:
    `begun_parts` counts forwards begun and `ended_parts` backwards ended by task and stage, and
    `clock_s` is scratch room by stage.
    Of an item that waits for memory by the clock, `deadline_s` is the end of the wait (NaN: it does
    not wait) and `look_s` the next look; `alarm_s` is its look in the heap (NaN: none). `fresh`
    and `failed` are lists, counted by their first entry, of waits that have just begun and of
    items to be dropped; `taken` is the operation that keeps a lane while it waits, and `slowed`
    marks GPUs whose two operations slow each other down. `overdue` marks GPUs where an item has
    waited as long as it may, `away` by task and stage activations in the host's memory.
    `gave_way_s` is when a deferred training task let the next one of the closed loop go ahead
    (NaN: it did not).
    """

    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    row: npt.NDArray[np.int64]
    node: npt.NDArray[np.int32]
    end_state: npt.NDArray[np.int8]
    release_s: npt.NDArray[np.float64]
    left: npt.NDArray[np.int32]
    successor: npt.NDArray[np.int32]
    arrivals: npt.NDArray[np.int64]
    ready_s: npt.NDArray[np.float64]
    after: npt.NDArray[np.int32]
    before: npt.NDArray[np.int32]
    place: npt.NDArray[np.int16]
    begun_s: npt.NDArray[np.float64]
    head: npt.NDArray[np.int32]
    tail: npt.NDArray[np.int32]
    running: npt.NDArray[np.uint8]
    busy_until_s: npt.NDArray[np.float64]
    used_bytes: npt.NDArray[np.float64]
    holders: npt.NDArray[np.int64]
    turn_after: npt.NDArray[np.int32]
    turn_last: npt.NDArray[np.int32]
    due: npt.NDArray[np.int32]
    updates: npt.NDArray[np.int64]
    sync_task: npt.NDArray[np.int32]
    gpu_end_s: npt.NDArray[np.float64]
    gpu_key: npt.NDArray[np.int64]
    first_end: npt.NDArray[np.int32]
    ending: npt.NDArray[np.int32]
    wants: npt.NDArray[np.uint8]
    times: npt.NDArray[np.float64]
    keys: npt.NDArray[np.int64]
    waiting: npt.NDArray[np.int32]
    owed: npt.NDArray[np.int32]
    owes: npt.NDArray[np.int64]
    touched: npt.NDArray[np.int64]
    is_touched: npt.NDArray[np.uint8]
    begun_parts: npt.NDArray[np.int32]
    ended_parts: npt.NDArray[np.int32]
    clock_s: npt.NDArray[np.float64]
    hops: npt.NDArray[np.int64]
    deadline_s: npt.NDArray[np.float64]
    look_s: npt.NDArray[np.float64]
    alarm_s: npt.NDArray[np.float64]
    fresh: npt.NDArray[np.int32]
    failed: npt.NDArray[np.int32]
    taken: npt.NDArray[np.int32]
    slowed: npt.NDArray[np.uint8]
    overdue: npt.NDArray[np.uint8]
    away: npt.NDArray[np.uint8]
    gave_way_s: npt.NDArray[np.float64]


def _array(dtype: Any, dimensions: int, readonly: bool) -> Any:
    return types.Array(dtype, dimensions, "C", readonly=readonly)


_F8, _I8, _I4, _I2 = types.float64, types.int64, types.int32, types.int16
_I1, _U1 = types.int8, types.uint8
TRUTH_T = types.NamedTuple(
    tuple(_array(_F8, dimensions, True) for dimensions in (3, 3, 3, 3, 2, 2, 1)), Truth
)
RULES_T = types.NamedTuple((_I8,) * 18 + (_F8,) * 5, Rules)
PLAIN_RULES_T = types.NamedTuple((types.none, *RULES_T.types[1:]), Rules)
BOOKS_T = types.NamedTuple(
    tuple(
        _array(dtype, dimensions, False)
        for dtype, dimensions in (
            (_F8, 1),
            (_F8, 1),
            (_I8, 1),
            (_I4, 1),
            (_I1, 1),
            (_F8, 1),
            (_I4, 1),
            (_I4, 1),
            (_I8, 1),
            (_F8, 1),
            (_I4, 1),
            (_I4, 1),
            (_I2, 1),
            (_F8, 1),
            (_I4, 2),
            (_I4, 2),
            (_U1, 1),
            (_F8, 1),
            (_F8, 1),
            (_I8, 1),
            (_I4, 1),
            (_I4, 1),
            (_I4, 1),
            (_I8, 1),
            (_I4, 1),
            (_F8, 1),
            (_I8, 1),
            (_I4, 1),
            (_I4, 1),
            (_U1, 1),
            (_F8, 1),
            (_I8, 1),
            (_I4, 1),
            (_I4, 2),
            (_I8, 1),
            (_I8, 1),
            (_U1, 1),
            (_I4, 1),
            (_I4, 1),
            (_F8, 1),
            (_I8, 1),
            (_F8, 1),
            (_F8, 1),
            (_F8, 1),
            (_I4, 1),
            (_I4, 1),
            (_I4, 1),
            (_U1, 1),
            (_U1, 1),
            (_U1, 1),
            (_F8, 1),
        )
    ),
    Books,
)
STATE_T = types.Array(_F8, 1, "C")
"""State of a compiled policy: one array of numbers."""


def truth_of(instance: Instance, costs: Costs) -> Truth:
    """Return the columns of what really happens."""
    forward_s, backward_s = costs.forward_s, costs.backward_s
    if instance.micro_batches > 1:
        parts = np.where(instance.workload.is_training, instance.micro_batches, 1)[:, None]
        forward_s, backward_s = forward_s / parts, backward_s / parts
    return Truth(
        fixed(forward_s, np.float64),
        fixed(backward_s, np.float64),
        fixed(instance.peak_bytes(costs), np.float64),
        fixed(costs.hop_s, np.float64),
        fixed(costs.closing_s, np.float64),
        fixed(costs.resident_bytes[instance.cluster.node_class], np.float64),
        fixed(_sync_s(instance), np.float64),
    )


def _sync_s(instance: Instance) -> npt.NDArray[np.float64]:
    seconds = np.zeros(instance.cluster.nodes)
    if instance.weight_sync is not None:
        seconds += instance.weight_sync.seconds
        seconds[list(instance.weight_sync.serving)] = 0.0
    return seconds


def rules_of(instance: Instance, watched: int, recorded: int, clocked: bool = False) -> Rules:
    """Return the rules as numbers.

    `watched` is the mask of events the policy observes; after `recorded` events the driver hands
    them over (0: nothing is recorded). `clocked` says whether decisions are measured in compiled
    code.
    """
    generation = instance.generation
    contention = instance.contention or Contention()
    threshold = MEMORY_RULES.index(instance.memory_rule)
    plain = instance.micro_batches == 1 and all(
        getattr(instance, name) == value
        for name, value in PLAIN_RULES.items()
        if name != "pipeline"
    )
    return Rules(
        None if plain else 1,
        instance.cluster.nodes,
        instance.cluster.stages,
        instance.micro_batches,
        GPU_ORDERS.index(instance.gpu_order),
        int(instance.fifo),
        RELEASE_MODES.index(instance.release_mode),
        PIPELINES.index(instance.pipeline),
        instance.weight_sync.every if instance.weight_sync else 0,
        watched,
        recorded,
        int(clocked),
        threshold,
        int(threshold or instance.memory_wait is not None),
        GPU_SHARINGS.index(instance.gpu_sharing),
        int(instance.waiting.offload_bytes_per_s > 0),
        0 if generation is None else 1 + GENERATION_RULES.index(generation.rule),
        instance.tasks,
        instance.waiting.poll_s,
        instance.waiting.max_wait_s,
        contention.forward,
        contention.backward,
        instance.waiting.offload_bytes_per_s,
    )
