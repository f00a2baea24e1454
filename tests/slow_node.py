"""One node of the slow engine: queues and memory, and the rule that picks what runs next."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from math import fsum, inf

from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD

SLACK_S = 1e-9
"""Seconds by which a forward may overlap a reservation because of floating-point noise."""


SLACK_BYTES = 1e-4
"""Bytes by which sums of thirds may be off."""

Item = tuple[int, int]
"""A task and one of its micro-batches; an inference task is one item."""


class Gpu:
    """Queues, running operation and memory of one stage."""

    __slots__ = (
        "backwards",
        "begun",
        "busy_until",
        "capacity",
        "ended",
        "forwards",
        "held",
        "owed",
        "resident",
        "returned",
        "running",
    )

    def __init__(self, capacity: float, resident: float) -> None:
        self.capacity = capacity
        self.resident = resident
        self.busy_until = -inf
        self.running = False
        self.forwards: list[tuple[float, Item]] = []
        self.backwards: list[tuple[float, Item]] = []
        self.held: dict[int, float] = {}
        self.owed: set[Item] = set()
        # Micro-batches by task: forwards begun and ended, backwards ended.
        self.begun: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.returned: Counter[int] = Counter()

    def used(self) -> float:
        """Bytes in use, resident ones included."""
        return fsum((self.resident, *self.held.values()))

    def has_room(self, more: float) -> bool:
        """Whether `more` bytes fit beside what is held now."""
        return fsum((self.resident, *self.held.values(), more)) <= self.capacity + SLACK_BYTES


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
        self.held_bytes = held
        self.stages = instance.cluster.stages
        self.pipeline = instance.pipeline
        self.training = instance.workload.is_training.tolist()
        self.parts = [instance.micro_batches if trains else 1 for trains in self.training]
        self.forward_s = instance.costs.forward_s[kind].tolist()
        self.backward_s = instance.costs.backward_s[kind].tolist()
        self.hop_s = instance.costs.hop_s[kind].tolist()
        self.release_s = instance.workload.release_s.tolist()
        self.one_by_one = instance.pipeline == "1f1b" and instance.micro_batches > 1
        capacity = instance.capacity_bytes[index].tolist()
        self.gpus = [Gpu(c, r) for c, r in zip(capacity, resident, strict=True)]
        # Where every item stands: phase, stage, and when that operation starts (None: waiting).
        self.position: dict[Item, tuple[int, int, float | None]] = {}
        self.travelling = 0
        self.sequence: list[Item] = []
        self.next_in_sequence = [0] * self.stages

    def most(self, task: int, stage: int) -> int:
        """Micro-batches whose activations a task keeps at once on a stage."""
        if self.pipeline == "1f1b":
            return min(self.parts[task], self.stages - stage)
        return self.parts[task]

    def need(self, task: int, stage: int, count: int | None = None) -> float:
        """Bytes of some micro-batches of a task, of as many as it holds at most by default."""
        count = self.most(task, stage) if count is None else count
        return self.held_bytes[task][stage] * count / self.parts[task]

    def ready(self, time_s: float, item: Item, phase: int, stage: int) -> None:
        """Queue an operation whose predecessor has ended."""
        gpu = self.gpus[stage]
        insort(gpu.forwards if phase == FORWARD else gpu.backwards, (time_s, item))
        self.position[item] = (phase, stage, None)

    def still(self) -> bool:
        """Whether nothing runs here or is on its way."""
        return not (self.travelling or any(gpu.running for gpu in self.gpus))

    def pick(self, stage: int, now_s: float, waived: bool = False) -> tuple[int, Item] | None:
        """Return phase and item of the operation the GPU takes now, or None to stay idle."""
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
            if self.order == "reserve" and self.one_by_one and stage == 0:
                # The first stage feeds the pipeline.
                same = forward[1][0] == backward[1][0]
                first = not (same and forward[0] < backward[0])
            if first:
                return BACKWARD, backward[1]
        item = forward[1]
        if self.order == "reserve" and gpu.owed and not waived:
            end = now_s + self.forward_s[item[0]][stage] / self.parts[item[0]]
            ready = min(self._owed_at(other, stage, now_s) for other in gpu.owed)
            if end > ready + SLACK_S and self._is_held(item[0], stage, ready):
                return None
        return FORWARD, item

    def _is_held(self, task: int, stage: int, ready_s: float) -> bool:
        """Whether a forward is kept waiting for a backward that is ready at `ready_s`."""
        if not self.one_by_one:
            return True
        request = task < len(self.release_s) and not self.training[task]
        if not request or max(self.parts) > self.stages - stage:
            return False
        due_s = self.release_s[task]
        for s in range(stage):
            due_s += self.forward_s[task][s] + self.hop_s[task][s]
        slack_s = 2 * self.forward_s[task][stage] / max(stage, 1)
        return ready_s <= due_s + slack_s + SLACK_S

    def _may_start(self, stage: int, task: int) -> bool:
        gpu = self.gpus[stage]
        if not gpu.begun[task]:
            return gpu.has_room(self.need(task, stage))
        between = gpu.begun[task] - gpu.returned[task]
        return self.pipeline != "1f1b" or between < self.stages - stage

    def _forward(self, stage: int) -> tuple[float, Item] | None:
        gpu = self.gpus[stage]
        queue = gpu.forwards
        if self.one_order and stage > 0:
            place = self.next_in_sequence[stage]
            due = self.sequence[place] if place < len(self.sequence) else None
            queue = [entry for entry in queue if entry[1] == due]
        elif self.order == "task_id":
            queue = sorted(queue, key=lambda entry: entry[1])
        if self.one_order and stage == 0 and self.sequence:
            # A task's micro-batches follow each other.
            task, part = self.sequence[-1]
            if part + 1 < self.parts[task]:
                queue = [entry for entry in queue if entry[1] == (task, part + 1)]
        for place, entry in enumerate(queue):
            task = entry[1][0]
            if place and self.holds_queue and not gpu.begun[task]:
                continue
            if self._may_start(stage, task):
                return entry
        return None

    def _owed_at(self, item: Item, stage: int, now_s: float) -> float:
        """Predict when an item's backward on a stage becomes ready if nothing delays it."""
        task, part = item
        phase, at, start = self.position[item]
        if start is None:
            start = max(now_s, self.gpus[at].busy_until)
        parts = self.parts[task]
        forward = [seconds / parts for seconds in self.forward_s[task]]
        backward = [seconds / parts for seconds in self.backward_s[task]]
        hop = self.hop_s[task]
        last = self.stages - 1
        if phase == FORWARD and self.pipeline == "gpipe" and parts > 1:
            if part:
                return inf
            time_s = self._all_forwards_end(task, now_s)
            at = last
            if stage == last:
                return time_s
            time_s += backward[last]
        else:
            time_s = max(now_s, start + (forward if phase == FORWARD else backward)[at])
            if phase == FORWARD:
                for s in range(at + 1, self.stages):
                    time_s += hop[s - 1] + forward[s]
                if stage == last:
                    return float(time_s)
                at = last
                time_s += backward[at]
        for s in range(at - 1, stage, -1):
            time_s += hop[s] + backward[s]
        return float(time_s + hop[stage])

    def _all_forwards_end(self, task: int, now_s: float) -> float:
        """Predict the end of a task's last forward: a flow shop of its micro-batches alone."""
        parts = self.parts[task]
        free = [now_s] * self.stages
        for part in range(self.gpus[-1].ended[task], parts):
            _, at, start = self.position[task, part]
            ready = max(now_s, self.gpus[at].busy_until, free[at]) if start is None else start
            end = max(now_s, ready + self.forward_s[task][at] / parts)
            free[at] = end
            for s in range(at + 1, self.stages):
                end = max(end + self.hop_s[task][s - 1], free[s]) + self.forward_s[task][s] / parts
                free[s] = end
        return free[-1]

    def take(self, phase: int, item: Item, stage: int, now_s: float, end_s: float) -> None:
        """Start an operation that `pick` returned."""
        gpu = self.gpus[stage]
        task = item[0]
        gpu.busy_until = end_s
        gpu.running = True
        self.position[item] = (phase, stage, now_s)
        queue = gpu.forwards if phase == FORWARD else gpu.backwards
        queue.pop(next(i for i, entry in enumerate(queue) if entry[1] == item))
        if phase == BACKWARD:
            gpu.owed.discard(item)
            return
        gpu.begun[task] += 1
        if gpu.begun[task] == 1:
            gpu.held[task] = self.need(task, stage)
        if self.training[task]:
            gpu.owed.add(item)
        if self.one_order:
            if stage == 0:
                self.sequence.append(item)
            else:
                self.next_in_sequence[stage] += 1

    def end(self, phase: int, task: int, stage: int) -> bool:
        """Count and free; return whether the task's last micro-batch has ended here."""
        gpu = self.gpus[stage]
        count = gpu.ended if phase == FORWARD else gpu.returned
        count[task] += 1
        left = self.parts[task] - count[task]
        if phase == BACKWARD or not self.training[task]:
            if left == 0:
                del gpu.held[task]
            else:
                gpu.held[task] = self.need(task, stage, min(left, self.most(task, stage)))
        return left == 0

    def forget(self, task: int, running: set[int]) -> None:
        """Take a dropped task out of all queues; free what it holds but where it still runs."""
        for stage, gpu in enumerate(self.gpus):
            gpu.forwards[:] = [entry for entry in gpu.forwards if entry[1][0] != task]
            if stage not in running:
                gpu.held.pop(task, None)
            gpu.owed = {item for item in gpu.owed if item[0] != task}
            passed = self.sequence[: self.next_in_sequence[stage]]
            self.next_in_sequence[stage] -= sum(item[0] == task for item in passed)
        self.sequence = [item for item in self.sequence if item[0] != task]
        self.position = {item: at for item, at in self.position.items() if item[0] != task}
