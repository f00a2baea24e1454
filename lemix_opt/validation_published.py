"""Checks of the published code's rules: two operations on a GPU, and its memory threshold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from lemix_opt.contention import Contention
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES, SYNC, UPDATE, Schedule
from lemix_opt.violation import TOLERANCE_BYTES, TOLERANCE_S, Violation

Spans = dict[tuple[int, int, int], tuple[float, float]]
"""Start and end in seconds by task, phase and stage."""


def thread_faults(instance: Instance, schedule: Schedule, spans: Spans) -> Iterator[Violation]:
    """Check a schedule under `gpu_sharing="reference_threads"`.

    A lane of a GPU runs one operation at a time; a training task keeps the last stage's forward
    lane until all its operations have ended; and every operation does its work, the overlap with
    the other lane counting less by the contention's factor.
    """
    last = instance.cluster.stages - 1
    slow = instance.contention or Contention()
    own_end: dict[int, float] = defaultdict(float)
    for (task, phase, _), (_, end) in spans.items():
        if phase != SYNC:
            own_end[task] = max(own_end[task], end)
    lanes: dict[tuple[int, int, bool], list[tuple[float, float, int, int]]] = defaultdict(list)
    for (task, phase, stage), (start, end) in spans.items():
        node = int(schedule.node[task])
        lanes[node, stage, phase in (FORWARD, SYNC)].append((start, end, task, phase))
    for (node, stage, forwards), entries in lanes.items():
        yield from _work_faults(
            instance,
            entries,
            lanes.get((node, stage, not forwards), []),
            slow.forward if forwards else slow.backward,
            (node, stage),
        )
        blocked = -1.0
        for start, end, task, phase in sorted(entries):
            if start < blocked - TOLERANCE_S and end > start:
                text = (
                    f"stage {stage} of node {node} starts {PHASES[phase]} of task {task} at "
                    f"{start:.9g} s, but its thread is taken until {blocked:.9g} s"
                )
                yield Violation("exclusive", text, task, stage, node, start)
            trains = bool(instance.workload.is_training[task])
            keeps = phase == FORWARD and stage == last and trains
            blocked = max(blocked, own_end[task] if keeps else end)


def _work_faults(
    instance: Instance,
    entries: list[tuple[float, float, int, int]],
    others: list[tuple[float, float, int, int]],
    factor: float,
    gpu: tuple[int, int],
) -> Iterator[Violation]:
    """Compare the work that every operation of a lane did with what it takes alone."""
    node, stage = gpu
    kind, costs = int(instance.cluster.node_class[node]), instance.costs
    for start, end, task, phase in entries:
        if phase == SYNC:
            continue
        if phase == UPDATE:
            wanted = float(costs.closing_s[kind, stage])
        else:
            seconds = costs.forward_s if phase == FORWARD else costs.backward_s
            wanted = float(seconds[kind, task, stage])
        beside = sum(
            max(0.0, min(end, e) - max(start, b)) for b, e, _, other in others if other != SYNC
        )
        work = end - start - beside + beside / factor
        if abs(work - wanted) > TOLERANCE_S:
            text = (
                f"{PHASES[phase]} of task {task} on stage {stage} does {work:.9g} s of work in "
                f"{end - start:.9g} s, {beside:.9g} s of them beside another operation"
            )
            yield Violation(
                "duration", f"{text}, expected {wanted:.9g} s", task, stage, node, start
            )


def threshold_faults(instance: Instance, schedule: Schedule, spans: Spans) -> Iterator[Violation]:
    """Check that every forward and backward starts with use at most at the threshold.

    What begins at the same moment is not counted: its order is not in the schedule.
    """
    kind = instance.cluster.node_class
    training = instance.workload.is_training
    holds: dict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)
    for (task, phase, stage), (start, end) in spans.items():
        if phase == FORWARD:
            node = int(schedule.node[task])
            until = spans[task, BACKWARD, stage][1] if training[task] else end
            held = float(instance.costs.held_bytes[kind[node], task, stage])
            holds[node, stage].append((start, until, held))
    for (task, phase, stage), (start, _) in spans.items():
        if phase not in (FORWARD, BACKWARD):
            continue
        node = int(schedule.node[task])
        used = float(instance.resident_bytes[node, stage]) + sum(
            held
            for begun, until, held in holds[node, stage]
            if begun < start - TOLERANCE_S and until > start + TOLERANCE_S
        )
        limit = float(instance.capacity_bytes[node, stage])
        if used > limit + TOLERANCE_BYTES:
            text = (
                f"{PHASES[phase]} of task {task} starts on stage {stage} of node {node} with "
                f"{used / 2**20:.3f} MiB in use, expected at most {limit / 2**20:.3f} MiB"
            )
            yield Violation("threshold", text, task, stage, node, start)
