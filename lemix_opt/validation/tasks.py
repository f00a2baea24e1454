"""Rules within a task: what its operations take, in which order they come, and their warm-up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES, UPDATE
from lemix_opt.validation.operations import Block, OperationTable
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


def task_faults(table: OperationTable) -> tuple[Moments, list[Violation]]:
    """Check every task for itself."""
    instance, count, found = table.instance, table.instance.tasks, []
    moments = Moments(np.full(count, np.inf), np.full(count, np.inf), np.full(count, -np.inf))
    exclusive = instance.gpu_sharing == "exclusive"
    for block in table.blocks():
        start, end = table.own.start_s[block.rows], table.own.end_s[block.rows]
        spans = _Spans(table, block, start, end)
        if exclusive:
            found += _durations(spans)
        found += _order(spans)
        if instance.pipeline == "1f1b" and block.layout.trains:
            found += _warm_up(spans)
        tasks, parts = block.tasks, block.layout.parts
        moments.start_s[tasks] = start[:, :parts].min(axis=1)
        moments.end_s[tasks] = end.max(axis=1)
        if block.layout.trains:
            awaited = spans.ends(FORWARD if instance.release_mode == "async" else BACKWARD)
            moments.loop_end_s[tasks] = awaited[:, 0].max(axis=1)
    return moments, found


class _Spans(NamedTuple):
    """Starts and ends of a block's operations in seconds, shape (n, W)."""

    table: OperationTable
    block: Block
    start_s: FloatArray
    end_s: FloatArray

    def ends(self, phase: int) -> FloatArray:
        """Return the ends of forwards or backwards, shape (n, S, micro-batches)."""
        return self._by_stage(self.end_s, phase)

    def starts(self, phase: int) -> FloatArray:
        """Return the starts of forwards or backwards, shape (n, S, micro-batches)."""
        return self._by_stage(self.start_s, phase)

    def _by_stage(self, column: FloatArray, phase: int) -> FloatArray:
        stages, parts = self.table.instance.cluster.stages, self.block.layout.parts
        begin = phase * stages * parts
        return column[:, begin : begin + stages * parts].reshape(-1, stages, parts)

    def violations(
        self, wrong: BoolArray, rule: str, text: str, wanted: FloatArray
    ) -> list[Violation]:
        """Say of every wrong operation what it does, and what was expected."""
        found = []
        for row, place in zip(*(at.tolist() for at in np.nonzero(wrong)), strict=True):
            layout, task = self.block.layout, int(self.block.tasks[row])
            start, end = float(self.start_s[row, place]), float(self.end_s[row, place])
            stage, part = int(layout.stage[place]), of_part(int(layout.part[place]))
            says = (
                f"{PHASES[layout.phase[place]]} of task {task}{part} on stage {stage} "
                + text.format(start=start, took=end - start, wanted=float(wanted[row, place]))
            )
            node = int(self.table.schedule.node[task])
            found.append(Violation(rule, says, task, stage, node, start))
        return found


def _durations(spans: _Spans) -> list[Violation]:
    """Compare what operations take with their costs."""
    layout, tasks, costs = spans.block.layout, spans.block.tasks, spans.table.instance.costs
    seconds = [costs.forward_s[layout.kind, tasks] / layout.parts]
    if layout.trains:
        seconds.append(costs.backward_s[layout.kind, tasks] / layout.parts)
    # Micro-batches of a stage follow each other.
    columns = [np.repeat(column, layout.parts, axis=1) for column in seconds]
    updates = layout.stage[layout.phase == UPDATE]
    update_s = costs.closing_s[layout.kind, updates]
    columns.append(np.broadcast_to(update_s, (tasks.size, updates.size)))
    wanted = np.concatenate(columns, axis=1)
    wrong = np.abs(spans.end_s - spans.start_s - wanted) > TOLERANCE_S
    if not wrong.any():
        return []
    return spans.violations(
        wrong, "duration", "takes {took:.9g} s, expected {wanted:.9g} s", wanted
    )


def _order(spans: _Spans) -> list[Violation]:
    """Check that operations start after what they wait for, and updates right then."""
    layout, tasks, instance = spans.block.layout, spans.block.tasks, spans.table.instance
    stages = instance.cluster.stages
    hop = instance.costs.hop_s[layout.kind, tasks][:, :, None]
    forward_end = spans.ends(FORWARD)
    # The first stage's forwards wait for the release, which is checked elsewhere.
    ready = [np.full((tasks.size, 1, layout.parts), -np.inf), forward_end[:, :-1] + hop]
    if layout.trains:
        backward_end = spans.ends(BACKWARD)
        turn = forward_end[:, -1:]
        if instance.pipeline == "gpipe":
            turn = np.broadcast_to(turn.max(axis=2, keepdims=True), turn.shape)
        ready += [backward_end[:, 1:] + hop, turn]
    columns = [np.concatenate(ready, axis=1).reshape(tasks.size, -1)]
    updates = layout.stage[layout.phase == UPDATE]
    if updates.size:
        columns.append(backward_end[:, updates].max(axis=2))
    wanted = np.concatenate(columns, axis=1)
    early = spans.start_s < wanted - TOLERANCE_S
    late = spans.start_s > wanted + TOLERANCE_S
    late[:, : 2 * stages * layout.parts] = False
    found: list[Violation] = []
    is_update = layout.phase == UPDATE
    for rule, wrong, order in (
        ("precedence", early & ~is_update, "at least"),
        ("update", (early | late) & is_update, "exactly"),
    ):
        if wrong.any():
            text = "starts at {start:.9g} s, expected " + order + " {wanted:.9g} s"
            found += spans.violations(wrong, rule, text, wanted)
    return found


def _warm_up(spans: _Spans) -> list[Violation]:
    """1F1B: at most S − s micro-batches of a task between forward and backward on stage s."""
    stages, parts = spans.table.instance.cluster.stages, spans.block.layout.parts
    begin, over, found = spans.starts(FORWARD), spans.ends(BACKWARD), []
    for stage in range(stages):
        limit = stages - stage
        if parts <= limit:
            continue
        # More are under way only if the k-th begins before the (k − limit)-th is over, unless a
        # backward is over before its forward begins.
        starts, ends = np.sort(begin[:, stage], axis=1), np.sort(over[:, stage], axis=1)
        maybe = (ends[:, :-limit] > starts[:, limit:]).any(axis=1)
        maybe |= (over[:, stage] < begin[:, stage]).any(axis=1)
        for row in np.flatnonzero(maybe).tolist():
            task = int(spans.block.tasks[row])
            for start in begin[row, stage].tolist():
                now = start + TOLERANCE_S
                count = int(np.sum((begin[row, stage] <= now) & (now < over[row, stage])))
                if count > limit:
                    text = f"task {task} has {count} micro-batches under way on stage {stage}"
                    node = int(spans.table.schedule.node[task])
                    says = f"{text}, expected {limit}"
                    found.append(Violation("warm_up", says, task, stage, node, start))
                    break
    return found
