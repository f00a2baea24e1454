"""Checks of activations that were moved to the host's memory and back."""

from __future__ import annotations

from collections.abc import Iterator

from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD, OFFLOAD, PHASES, RELOAD, Schedule
from lemix_opt.violation import TOLERANCE_S, Violation

Spans = dict[tuple[int, int, int, int], tuple[float, float]]
"""Start and end in seconds by task, phase, stage and micro-batch."""


def move_keys(
    instance: Instance, task: int, counts: dict[tuple[int, int, int], int]
) -> set[tuple[int, int, int]]:
    """Return phase, stage and micro-batch of a task's moves that come in pairs, as they may."""
    if not (instance.waiting.offload_bytes_per_s and instance.workload.is_training[task]):
        return set()
    return {
        (phase, stage, 0)
        for stage in range(instance.cluster.stages)
        for phase in (OFFLOAD, RELOAD)
        if counts.get((OFFLOAD, stage, 0)) == counts.get((RELOAD, stage, 0)) == 1
    }


def move_faults(
    instance: Instance, schedule: Schedule, spans: Spans, moves: Spans
) -> Iterator[Violation]:
    """Check that moves take bytes / rate, lie between forward and backward, and lead to it."""
    for (task, phase, stage, part), (start, end) in moves.items():
        node = int(schedule.node[task])
        kind = int(instance.cluster.node_class[node])
        held = float(instance.costs.held_bytes[kind, task, stage])
        wanted = held / instance.waiting.offload_bytes_per_s
        what = f"{PHASES[phase]} of task {task} on stage {stage}"
        if abs(end - start - wanted) > TOLERANCE_S:
            text = f"{what} takes {end - start:.9g} s, expected {wanted:.9g} s"
            yield Violation("duration", text, task, stage, node, start)
        if phase == OFFLOAD:
            after_s = spans[task, FORWARD, stage, part][1]
        else:
            after_s = moves[task, OFFLOAD, stage, part][1]
            backward_s = spans[task, BACKWARD, stage, part][0]
            if abs(backward_s - end) > TOLERANCE_S:
                text = f"{what} ends at {end:.9g} s, but its backward starts at {backward_s:.9g} s"
                yield Violation("move", text, task, stage, node, end)
        if start < after_s - TOLERANCE_S:
            text = f"{what} starts at {start:.9g} s, expected at least {after_s:.9g} s"
            yield Violation("move", text, task, stage, node, start)
