"""One node of the slow engine: queues and memory, and the rule that picks what runs next."""

from __future__ import annotations

from bisect import insort
from math import fsum, inf

from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD

SLACK_S = 1e-9
"""Seconds by which a forward may overlap a reservation because of floating-point noise."""


class Gpu:
    """Queues, running operation and memory of one stage."""

    __slots__ = (
        "backwards",
        "busy_until",
        "capacity",
        "forwards",
        "held",
        "owed",
        "resident",
        "running",
    )

    def __init__(self, capacity: float, resident: float) -> None:
        self.capacity = capacity
        self.resident = resident
        self.busy_until = -inf
        self.running = False
        self.forwards: list[tuple[float, int]] = []
        self.backwards: list[tuple[float, int]] = []
        self.held: dict[int, float] = {}
        self.owed: set[int] = set()

    def used(self) -> float:
        """Bytes in use, resident ones included."""
        return fsum((self.resident, *self.held.values()))

    def has_room(self, more: float) -> bool:
        """Whether `more` bytes fit beside what is held now."""
        return fsum((self.resident, *self.held.values(), more)) <= self.capacity


class Node:
    """GPUs of one replica and the position of every task that is on it.

    Parameters
    ----------
    instance : Instance
        Rules and predicted costs, from which reservations are predicted.
    index : int
        Number of the node.
    held : list of list of float
        Actual bytes by task and stage.
    resident : list of float
        Actual resident bytes by stage.
    """

    def __init__(
        self, instance: Instance, index: int, held: list[list[float]], resident: list[float]
    ) -> None:
        kind = int(instance.cluster.node_class[index])
        self.index = index
        self.order = instance.gpu_order
        self.one_order = instance.fifo
        self.holds_queue = instance.fifo or instance.gpu_order == "fifo"
        self.need = held
        self.stages = instance.cluster.stages
        self.training = instance.workload.is_training.tolist()
        self.forward_s = instance.costs.forward_s[kind].tolist()
        self.backward_s = instance.costs.backward_s[kind].tolist()
        self.hop_s = instance.costs.hop_s[kind].tolist()
        capacity = instance.capacity_bytes[index].tolist()
        self.gpus = [Gpu(c, r) for c, r in zip(capacity, resident, strict=True)]
        # Where every task stands: phase, stage, and when that operation starts (None: waiting).
        self.position: dict[int, tuple[int, int, float | None]] = {}
        self.sequence: list[int] = []
        self.next_in_sequence = [0] * self.stages

    def ready(self, time_s: float, task: int, phase: int, stage: int) -> None:
        """Queue an operation whose predecessor has ended."""
        gpu = self.gpus[stage]
        insort(gpu.forwards if phase == FORWARD else gpu.backwards, (time_s, task))
        self.position[task] = (phase, stage, None)

    def pick(self, stage: int, now_s: float) -> tuple[int, int] | None:
        """Return phase and task of the operation the GPU takes now, or None to stay idle."""
        gpu = self.gpus[stage]
        if gpu.running or not (gpu.forwards or gpu.backwards):
            return None
        forward = self._forward(stage)
        backward = gpu.backwards[0] if gpu.backwards else None
        if self.order == "task_id" and gpu.backwards:
            backward = min(gpu.backwards, key=lambda entry: entry[1])
        if forward is None:
            return None if backward is None else (BACKWARD, backward[1])
        if backward is not None:
            first = self.order in ("reserve", "backward_first")
            if self.order == "fifo":
                first = (backward[0], 0, backward[1]) < (forward[0], 1, forward[1])
            elif self.order == "task_id":
                first = backward[1] <= forward[1]
            if first:
                return BACKWARD, backward[1]
        task = forward[1]
        if self.order == "reserve" and gpu.owed:
            end = now_s + self.forward_s[task][stage]
            if end > min(self._owed_at(j, stage, now_s) for j in gpu.owed) + SLACK_S:
                return None
        return FORWARD, task

    def _forward(self, stage: int) -> tuple[float, int] | None:
        gpu = self.gpus[stage]
        queue = gpu.forwards
        if self.one_order and stage > 0:
            place = self.next_in_sequence[stage]
            due = self.sequence[place] if place < len(self.sequence) else -1
            queue = [entry for entry in queue if entry[1] == due]
        elif self.order == "task_id":
            queue = sorted(queue, key=lambda entry: entry[1])
        for entry in queue:
            if gpu.has_room(self.need[entry[1]][stage]):
                return entry
            if self.holds_queue:
                return None
        return None

    def _owed_at(self, task: int, stage: int, now_s: float) -> float:
        """Predict when the backward of `task` on `stage` becomes ready if nothing delays it."""
        phase, at, start = self.position[task]
        if start is None:
            start = max(now_s, self.gpus[at].busy_until)
        forward, backward = self.forward_s[task], self.backward_s[task]
        hop = self.hop_s[task]
        time_s = max(now_s, start + (forward if phase == FORWARD else backward)[at])
        if phase == FORWARD:
            for s in range(at + 1, self.stages):
                time_s += hop[s - 1] + forward[s]
            if stage == self.stages - 1:
                return float(time_s)
            at = self.stages - 1
            time_s += backward[at]
        for s in range(at - 1, stage, -1):
            time_s += hop[s] + backward[s]
        return float(time_s + hop[stage])

    def take(self, phase: int, task: int, stage: int, now_s: float, end_s: float) -> None:
        """Start an operation that `pick` returned."""
        gpu = self.gpus[stage]
        gpu.busy_until = end_s
        gpu.running = True
        self.position[task] = (phase, stage, now_s)
        queue = gpu.forwards if phase == FORWARD else gpu.backwards
        queue.pop(next(i for i, entry in enumerate(queue) if entry[1] == task))
        if phase == BACKWARD:
            gpu.owed.discard(task)
            return
        gpu.held[task] = self.need[task][stage]
        if self.training[task]:
            gpu.owed.add(task)
        if self.one_order:
            if stage == 0:
                self.sequence.append(task)
            else:
                self.next_in_sequence[stage] += 1

    def forget(self, task: int) -> None:
        """Take a dropped task out of all queues and free what it holds."""
        for stage, gpu in enumerate(self.gpus):
            gpu.forwards[:] = [entry for entry in gpu.forwards if entry[1] != task]
            gpu.held.pop(task, None)
            gpu.owed.discard(task)
            if task in self.sequence:
                place = self.sequence.index(task)
                self.next_in_sequence[stage] -= place < self.next_in_sequence[stage]
        if task in self.sequence:
            self.sequence.remove(task)
        self.position.pop(task, None)
