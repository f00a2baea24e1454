"""Rules within a task: what its operations take, in which order they come, and their warm-up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES, UPDATE
from lemix_opt.validation.operations import Group
from lemix_opt.validation.structure import of_part
from lemix_opt.validation.violation import TOLERANCE_S, Violation


class Moments(NamedTuple):
    """What other rules need of every task, in seconds, in columns of shape (T,).

    Parameters
    ----------
    start_s : ndarray
        First start; infinity without operations.
    loop_end_s : ndarray
        End of what the next training task of the closed loop waits for: the last forward, or under
        ``"sync"`` the last backward, on the first stage.
    end_s : ndarray
        Last end of an operation; minus infinity without any.
    """

    start_s: FloatArray
    loop_end_s: FloatArray
    end_s: FloatArray


def moments_of(instance: Instance) -> Moments:
    """Return moments of tasks of which nothing is known yet."""
    count = instance.tasks
    return Moments(np.full(count, np.inf), np.full(count, np.inf), np.full(count, -np.inf))


def task_faults(instance: Instance, node: int, group: Group, moments: Moments) -> list[Violation]:
    """Check tasks of a node, every one for itself, and note their moments."""
    found: list[Violation] = []
    exclusive = instance.gpu_sharing == "exclusive"
    for block in group.blocks():
        layout, tasks = block.layout, block.tasks
        if exclusive:
            found += _durations(instance, node, block)
        found += _order(instance, node, block)
        if instance.pipeline == "1f1b" and layout.trains:
            found += _warm_up(instance, node, block)
        moments.start_s[tasks] = block.start_s[: layout.parts].min(axis=0)
        moments.end_s[tasks] = block.end_s.max(axis=0)
        if layout.trains:
            awaited = block.ends(FORWARD if instance.release_mode == "async" else BACKWARD)
            moments.loop_end_s[tasks] = awaited[0].max(axis=0)
    return found


def _violations(
    node: int, block: Group, wrong: BoolArray, rule: str, text: str, wanted: FloatArray
) -> list[Violation]:
    """Say of every wrong operation what it does, and what was expected."""
    found = []
    for place, at in zip(*(found.tolist() for found in np.nonzero(wrong)), strict=True):
        layout, task = block.layout, int(block.tasks[at])
        start, end = float(block.start_s[place, at]), float(block.end_s[place, at])
        stage, part = int(layout.stage[place]), of_part(int(layout.part[place]))
        says = f"{PHASES[layout.phase[place]]} of task {task}{part} on stage {stage} "
        says += text.format(start=start, took=end - start, wanted=float(wanted[place, at]))
        found.append(Violation(rule, says, task, stage, node, start))
    return found


def _durations(instance: Instance, node: int, block: Group) -> list[Violation]:
    """Compare what operations take with their costs."""
    layout, tasks, costs = block.layout, block.tasks, instance.costs
    stages = instance.cluster.stages
    wanted = np.empty_like(block.start_s)
    whole = wanted[: (1 + layout.trains) * stages * layout.parts]
    whole = whole.reshape(-1, stages, layout.parts, tasks.size)
    whole[0] = costs.forward_s[layout.kind, tasks].T[:, None] / layout.parts
    if layout.trains:
        whole[1] = costs.backward_s[layout.kind, tasks].T[:, None] / layout.parts
        updates = layout.stage[layout.phase == UPDATE]
        update_s = costs.closing_s[layout.kind, updates]
        wanted[wanted.shape[0] - updates.size :] = update_s[:, None]
    wrong = np.abs(block.end_s - block.start_s - wanted) > TOLERANCE_S
    if not wrong.any():
        return []
    text = "takes {took:.9g} s, expected {wanted:.9g} s"
    return _violations(node, block, wrong, "duration", text, wanted)


def _order(instance: Instance, node: int, block: Group) -> list[Violation]:
    """Check that operations start after what they wait for, and updates right then."""
    layout, tasks, stages = block.layout, block.tasks, instance.cluster.stages
    hop = instance.costs.hop_s[layout.kind, tasks].T[:, None]
    wanted = np.empty_like(block.start_s)
    ready = wanted[: (1 + layout.trains) * stages * layout.parts]
    ready = ready.reshape(-1, stages, layout.parts, tasks.size)
    forward_end = block.ends(FORWARD)
    # The first stage's forwards wait for the release, which is checked elsewhere.
    ready[0, 0] = -np.inf
    np.add(forward_end[:-1], hop, out=ready[0, 1:])
    if layout.trains:
        backward_end = block.ends(BACKWARD)
        np.add(backward_end[1:], hop, out=ready[1, :-1])
        turn = forward_end[-1]
        ready[1, -1] = turn.max(axis=0) if instance.pipeline == "gpipe" else turn
        updates = layout.stage[layout.phase == UPDATE]
        if updates.size:
            wanted[-updates.size :] = backward_end[updates].max(axis=1)
    is_update = (layout.phase == UPDATE)[:, None]
    early = block.start_s < wanted - TOLERANCE_S
    late = (block.start_s > wanted + TOLERANCE_S) & is_update
    found: list[Violation] = []
    for rule, wrong, order in (
        ("precedence", early & ~is_update, "at least"),
        ("update", (early & is_update) | late, "exactly"),
    ):
        if wrong.any():
            text = "starts at {start:.9g} s, expected " + order + " {wanted:.9g} s"
            found += _violations(node, block, wrong, rule, text, wanted)
    return found


def _warm_up(instance: Instance, node: int, block: Group) -> list[Violation]:
    """1F1B: at most S − s micro-batches of a task between forward and backward on stage s."""
    stages, found = instance.cluster.stages, []
    for stage, (begin, over) in enumerate(
        zip(block.starts(FORWARD), block.ends(BACKWARD), strict=True)
    ):
        limit = stages - stage
        if block.layout.parts <= limit:
            continue
        # More are under way only if the k-th begins before the (k − limit)-th is over, unless a
        # backward is over before its forward begins.
        starts, ends = np.sort(begin, axis=0), np.sort(over, axis=0)
        maybe = (ends[:-limit] > starts[limit:]).any(axis=0) | (over < begin).any(axis=0)
        for at in np.flatnonzero(maybe).tolist():
            task = int(block.tasks[at])
            for start in begin[:, at].tolist():
                now = start + TOLERANCE_S
                count = int(np.sum((begin[:, at] <= now) & (now < over[:, at])))
                if count > limit:
                    text = f"task {task} has {count} micro-batches under way on stage {stage}"
                    says = f"{text}, expected {limit}"
                    found.append(Violation("warm_up", says, task, stage, node, start))
                    break
    return found
