"""Why tasks are not done, worked out from an instance and its schedule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.costs import Costs
from lemix_opt.instance import Instance
from lemix_opt.schedule import (
    BACKWARD,
    DEFERRED,
    DONE,
    DROPPED,
    FORWARD,
    PHASES,
    UPDATE,
    Schedule,
)

_SLACK_BYTES = 1e-3
"""Bytes that floating-point sums of gigabytes may be off."""


class EndReason(NamedTuple):
    """Why a task is not done.

    Parameters
    ----------
    task : int
        Whose reason it is.
    kind : {"too_large", "out_of_memory", "deferred", "closed_loop", "not_placed", "memory", \
"tokens", "waits"}
        ``too_large``: it does not fit on the empty GPU it was placed on. ``out_of_memory``: its
        memory was not free when it gave up. ``deferred``: the policy put it off and was not asked
        again. ``closed_loop``: it waits for a training task that is not done. ``memory``: its
        next operation waits for memory that nobody frees. ``tokens``: a request without all its
        tokens. ``waits``: its next operation was never started.
    text : str
        The reason, with what is needed and what there is.
    """

    task: int
    kind: str
    text: str


def end_reasons(
    instance: Instance, schedule: Schedule, costs: Costs | None = None
) -> tuple[EndReason, ...]:
    """Return the reason of every task that is not done, in order of task.

    Parameters
    ----------
    instance : Instance
        What was scheduled.
    schedule : Schedule
        What came of it.
    costs : Costs, optional
        What really happened; the instance's own costs when omitted.

    Returns
    -------
    tuple of EndReason
        Empty when all tasks are done. Takes time linear in tasks and operations.
    """
    undone = np.flatnonzero(schedule.end_state != DONE)
    if not undone.size:
        return ()
    reasons = _Reasons(instance, schedule, instance.costs if costs is None else costs)
    return tuple(EndReason(task, *reasons.of(task)) for task in undone.tolist())


def reasons_text(reasons: tuple[EndReason, ...]) -> str:
    """Return the first reason of every kind, with how many tasks share the kind; "" for none."""
    kinds: dict[str, list[EndReason]] = {}
    for reason in reasons:
        kinds.setdefault(reason.kind, []).append(reason)
    said = []
    for first, *others in kinds.values():
        more = f" ({len(others)} more like it)" if others else ""
        said.append(f"task {first.task} {first.text}{more}")
    return "; ".join(said)


class _Reasons:
    def __init__(self, instance: Instance, schedule: Schedule, costs: Costs) -> None:
        self.instance, self.schedule, self.costs = instance, schedule, costs
        self.room = instance.limit_bytes - costs.resident_bytes[instance.cluster.node_class]
        self.lost = {event[0]: event[1:] for event in reversed(schedule.out_of_memory)}
        # Properties that are worked out at every look, over all tasks.
        self.trains, self.shares = instance.workload.is_training, instance.shares.tolist()
        self.waits_for = self._loop_roots()
        self.held: FloatArray | None = None

    def of(self, task: int) -> tuple[str, str]:
        """Return kind and text of a task that is not done."""
        node, state = int(self.schedule.node[task]), int(self.schedule.end_state[task])
        if state == DROPPED:
            return self.dropped(task, node)
        if state == DEFERRED:
            return "deferred", "was put off by the policy until the end"
        if task in self.waits_for:
            before = self.waits_for[task]
            return "closed_loop", f"waits in the closed loop for task {before}, which is not done"
        if not 0 <= node < self.room.shape[0]:
            return "not_placed", "was never placed"
        made = self.schedule.generated
        if made is not None and not self.trains[task]:
            wanted, again = int(self.instance.workload.output_tokens[task]), made.preemptions[task]
            text = f"has {int(made.tokens[task])} of {wanted} tokens"
            return "tokens", f"{text}, preempted {again} times" if again else text
        return self.waiting(task, node)

    def _loop_roots(self) -> dict[int, int]:
        """Return, by training task that was never released, the last one before it that was."""
        found: dict[int, int] = {}
        if self.instance.release_mode == "open":
            return found
        loop = np.flatnonzero(self.trains)
        released = np.isfinite(self.schedule.release_s[loop]).tolist()
        done = (self.schedule.end_state[loop] == DONE).tolist()
        before = -1
        for task, is_released, is_done in zip(loop.tolist(), released, done, strict=True):
            if is_released:
                before = -1 if is_done else task
            elif before >= 0:
                found[task] = before
        return found

    def dropped(self, task: int, node: int) -> tuple[str, str]:
        """Compare what a dropped task needs with what its GPU has when it is empty."""
        if task not in self.lost:
            return "out_of_memory", "was dropped"
        stage, where, time_s = self.lost[task]
        nodes, stages = self.room.shape
        place = f"on stage {stage} of node {where}"
        when = f"ran out of memory {place} at {time_s:.6g} s"
        if not (0 <= where == node < nodes and 0 <= stage < stages):
            return "out_of_memory", when
        tokens = self.kv_tokens(task, node, stage)
        if tokens is not None:
            too_large = tokens[0] > tokens[1]
            text = f"needs {tokens[0]} tokens of KV memory, {tokens[1]} fit"
        else:
            need, fit = self.bytes_of(task, stage, node), float(self.room[node, stage])
            too_large = need > fit + _SLACK_BYTES
            text = "needs {}, {} fit".format(*_amounts(need, fit))
        if too_large:
            return "too_large", f"{text} {place}"
        return "out_of_memory", f"{when}: {text} when it is empty"

    def kv_tokens(self, task: int, node: int, stage: int) -> tuple[int, int] | None:
        """Return tokens whose keys and values a request needs, and how many an empty GPU holds."""
        costs, work = self.costs.iteration, self.instance.workload
        if self.instance.generation is None or costs is None or self.trains[task]:
            return None
        each = costs.kv_bytes_per_token[int(self.instance.cluster.node_class[node]), stage]
        if not each > 0:
            return None
        # The last token is never processed, so that it has no keys and values.
        needed = int(work.prompt_tokens[task] + work.output_tokens[task]) - 1
        return needed, int((self.room[node, stage] + _SLACK_BYTES) / each)

    def bytes_of(self, task: int, stage: int, node: int) -> float:
        """Return the most bytes a task holds at once on a GPU."""
        kind, parts = int(self.instance.cluster.node_class[node]), self.instance.micro_batches
        held = float(self.costs.held_bytes[kind, task, stage])
        if parts > 1 and self.trains[task]:
            return held * float(self.shares[stage]) / parts
        return held

    def waiting(self, task: int, node: int) -> tuple[str, str]:
        """Name the first operation that never started, and the memory it lacks if it does."""
        phase, stage = self._next_of(task)
        place = f"on stage {stage} of node {node}"
        if phase == FORWARD:
            need = self.bytes_of(task, stage, node)
            free = float((self.room - self.held_at_end())[node, stage])
            if need > free + _SLACK_BYTES:
                text = "needs {}, {} are free at the end".format(*_amounts(need, free))
                return "memory", f"waits for memory {place}: {text}"
        return "waits", f"never started its {PHASES[phase]} {place}"

    def _next_of(self, task: int) -> tuple[int, int]:
        rows = self.schedule.operations
        # Numbers of another width would have the whole column converted.
        wanted = np.array([task, task + 1], dtype=rows.task.dtype)
        first, last = np.searchsorted(rows.task, wanted).tolist()
        columns = (rows.phase[first:last].tolist(), rows.stage[first:last].tolist())
        ran: dict[tuple[int, int], int] = {}
        for key in zip(*columns, strict=True):
            ran[key] = ran.get(key, 0) + 1
        trains = bool(self.trains[task])
        stages = self.room.shape[1]
        chain = [(FORWARD, s) for s in range(stages)]
        chain += [(BACKWARD, s) for s in range(stages - 1, -1, -1)] * trains
        parts = self.instance.micro_batches if trains else 1
        missing = (key for key in chain if ran.get(key, 0) < parts)
        return next(missing, (UPDATE, 0) if trains else chain[-1])

    def held_at_end(self) -> FloatArray:
        """Bytes that training tasks which are not done hold in the end, shape (N, S)."""
        if self.held is None:
            self.held = np.zeros_like(self.room)
            rows, parts = self.schedule.operations, self.instance.micro_batches
            stuck = (self.schedule.end_state != DONE) & (self.schedule.end_state != DROPPED)
            stuck &= self.trains
            mine = stuck[rows.task] & (rows.phase < UPDATE)
            ended: dict[tuple[int, int], int] = {}
            columns = (rows.task[mine], rows.phase[mine], rows.stage[mine])
            for task, phase, stage in zip(*(c.tolist() for c in columns), strict=True):
                ended[task, stage] = ended.get((task, stage), 0) + (phase == BACKWARD)
            for (task, stage), backwards in ended.items():
                node = int(self.schedule.node[task])
                if not (0 <= node < self.room.shape[0] and stage < self.room.shape[1]):
                    continue
                left = min(parts - backwards, self.shares[stage]) / self.shares[stage]
                self.held[node, stage] += self.bytes_of(task, stage, node) * left
        return self.held


def _amounts(need: float, fit: float) -> tuple[str, str]:
    """Return two sizes in the unit of the first, with digits enough to tell them apart."""
    for unit, size in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if need >= size:
            said = f"{need / size:.2f} {unit}", f"{fit / size:.2f} {unit}"
            return said if said[0] != said[1] else (f"{need:.0f} bytes", f"{fit:.0f} bytes")
    return f"{need:g} bytes", f"{fit:g} bytes"
