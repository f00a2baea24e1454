"""Rules of the published code: two operations on a GPU, and its memory threshold."""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.contention import Contention
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES, SYNC, UPDATE
from lemix_opt.validation.byte_sums import PrefixSums
from lemix_opt.validation.gpus import stays_on
from lemix_opt.validation.operations import Entries, Gpu
from lemix_opt.validation.tasks import Moments
from lemix_opt.validation.violation import TOLERANCE_BYTES, TOLERANCE_S, Violation

PAIRS = 1 << 22
"""Pairs of operations that are looked at together; bounds the memory of invalid schedules."""


def thread_faults(gpu: Gpu, moments: Moments) -> list[Violation]:
    """Check a GPU under `gpu_sharing="reference_threads"`.

    A lane of a GPU runs one operation at a time; a training task keeps the last stage's forward
    lane until all its operations have ended; and every operation does its work, the overlap with
    the other lane counting less by the contention's factor.
    """
    entries, slow = gpu.entries(), gpu.table.instance.contention or Contention()
    is_forward = (entries.phase == FORWARD) | (entries.phase == SYNC)
    lanes = [entries.take(np.flatnonzero(lane)) for lane in (is_forward, ~is_forward)]
    found = []
    for lane, other, factor in zip(lanes, lanes[::-1], (slow.forward, slow.backward), strict=True):
        found += _work_faults(gpu, lane, other, factor)
        found += _lane_faults(gpu, moments, lane)
    return found


def _lane_faults(gpu: Gpu, moments: Moments, lane: Entries) -> list[Violation]:
    """Check that a lane runs one operation at a time, and is kept as long as it should be."""
    table, node, stage = gpu.table, gpu.node, gpu.stage
    keeps = table.instance.workload.is_training[lane.task] & (lane.phase == FORWARD)
    keeps &= stage == table.instance.cluster.stages - 1
    until = np.where(keeps, moments.end_s[lane.task], lane.end_s)
    taken = np.maximum.accumulate(np.concatenate((np.full(1, -1.0), until)))[:-1]
    wrong = (lane.start_s < taken - TOLERANCE_S) & (lane.end_s > lane.start_s)
    found = []
    for row in np.flatnonzero(wrong).tolist():
        task, start = int(lane.task[row]), float(lane.start_s[row])
        text = (
            f"stage {stage} of node {node} starts {PHASES[lane.phase[row]]} of task {task} at "
            f"{start:.9g} s, but its thread is taken until {taken[row]:.9g} s"
        )
        found.append(Violation("exclusive", text, task, stage, node, start))
    return found


def _work_faults(gpu: Gpu, lane: Entries, other: Entries, factor: float) -> list[Violation]:
    """Compare the work that every operation of a lane did with what it takes alone."""
    table, node, stage = gpu.table, gpu.node, gpu.stage
    kind, costs = int(table.instance.cluster.node_class[node]), table.instance.costs
    lane = lane.take(np.flatnonzero(lane.phase != SYNC))
    wanted = np.where(
        lane.phase == FORWARD,
        costs.forward_s[kind, lane.task, stage],
        costs.backward_s[kind, lane.task, stage],
    )
    wanted[lane.phase == UPDATE] = costs.closing_s[kind, stage]
    beside = _beside_s(lane, other.take(np.flatnonzero(other.phase != SYNC)))
    took = lane.end_s - lane.start_s
    work = took - beside + beside / factor
    found = []
    for row in np.flatnonzero(np.abs(work - wanted) > TOLERANCE_S).tolist():
        task, start = int(lane.task[row]), float(lane.start_s[row])
        text = (
            f"{PHASES[lane.phase[row]]} of task {task} on stage {stage} does {work[row]:.9g} s of "
            f"work in {took[row]:.9g} s, {beside[row]:.9g} s of them beside another operation, "
            f"expected {wanted[row]:.9g} s"
        )
        found.append(Violation("duration", text, task, stage, node, start))
    return found


def _beside_s(lane: Entries, other: Entries) -> FloatArray:
    """Return for how many seconds operations overlap with those of the other lane, in all.

    Both lanes are in order of start. The sum runs over the few that may overlap, since a
    difference of sums over the whole lane would be less exact than the tolerance.
    """
    total = np.zeros(lane.start_s.size)
    latest = np.maximum.accumulate(other.end_s)
    first = np.searchsorted(latest, lane.start_s, side="right")
    count = np.maximum(np.searchsorted(other.start_s, lane.end_s, side="left") - first, 0)
    bounds = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(count)))
    low = 0
    while low < count.size:
        # At least one operation, whose pairs are at most the other lane.
        high = max(int(np.searchsorted(bounds, bounds[low] + PAIRS, side="right")) - 1, low + 1)
        some = np.arange(low, high)
        own = np.repeat(some, count[some])
        theirs = first[own] + np.arange(own.size) - (bounds[own] - bounds[low])
        both = np.minimum(lane.end_s[own], other.end_s[theirs])
        both = both - np.maximum(lane.start_s[own], other.start_s[theirs])
        np.add.at(total, own, np.maximum(both, 0.0))
        low = high
    return total


def threshold_faults(gpu: Gpu) -> list[Violation]:
    """Check that every forward and backward starts with use at most at the threshold.

    What begins at the same moment is not counted: its order is not in the schedule.
    """
    instance, node, stage = gpu.table.instance, gpu.node, gpu.stage
    pieces = [piece for piece in gpu.pieces if piece.phase in (FORWARD, BACKWARD)]
    if not pieces:
        return []
    start = np.concatenate([piece.start_s[:, 0] for piece in pieces])
    task = np.concatenate([piece.tasks for piece in pieces])
    phase = np.concatenate([np.full(piece.tasks.size, piece.phase) for piece in pieces])
    begin_s, until_s, held_bytes, _ = stays_on(gpu)
    # What is held for no longer than that is never seen: not at its beginning, nor at its end.
    long = until_s - begin_s > 2 * TOLERANCE_S
    begins, ends = (np.argsort(times[long], kind="stable") for times in (begin_s, until_s))
    taken, given_back = (PrefixSums(held_bytes[long][order]) for order in (begins, ends))
    begun = np.searchsorted(begin_s[long][begins], start - TOLERANCE_S, side="left")
    over = np.searchsorted(until_s[long][ends], start + TOLERANCE_S, side="right")
    used = taken.minus(begun, given_back, over) + float(instance.resident_bytes[node, stage])
    limit = float(instance.capacity_bytes[node, stage])
    found = []
    for row in np.flatnonzero(used > limit + TOLERANCE_BYTES).tolist():
        text = (
            f"{PHASES[phase[row]]} of task {task[row]} starts on stage {stage} of node {node} with "
            f"{used[row] / 2**20:.3f} MiB in use, expected at most {limit / 2**20:.3f} MiB"
        )
        where = (int(task[row]), stage, node, float(start[row]))
        found.append(Violation("threshold", text, *where))
    return found
