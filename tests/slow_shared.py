"""The slow engine where operations wait for memory by the clock or two share a GPU."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from math import inf

from slow_engine import _END, _LOOK, _Run
from slow_node import Item, Node

from lemix_opt.contention import Contention
from lemix_opt.costs import Costs
from lemix_opt.instance import Instance
from lemix_opt.policy import Event, Policy
from lemix_opt.schedule import BACKWARD, DROPPED, FORWARD, OFFLOAD, RELOAD, SYNC, UPDATE


class SharedRun(_Run):
    """Lanes are (node, stage, 0 for forwards and 1 for the rest); without threads only lane 0."""

    def __init__(self, instance: Instance, policy: Policy, costs: Costs, seed: int) -> None:
        super().__init__(instance, policy, costs, seed)
        self.threshold = instance.memory_rule == "reference_threshold"
        self.threads = instance.gpu_sharing == "reference_threads"
        self.wait = instance.waiting
        slow = instance.contention or Contention()
        self.factor = (slow.forward, slow.backward)
        # Waiting tasks: when the wait ends, and the next look.
        self.waits: dict[int, tuple[float, float]] = {}
        self.keeps: dict[tuple[int, int, int], tuple[int, Item]] = {}
        # What runs in a lane: task, phase, number of its row.
        self.runs: dict[tuple[int, int, int], tuple[int, int, int]] = {}
        self.blocked: set[int] = set()
        self.slowed: set[tuple[int, int]] = set()
        self.lost: list[tuple[int, int, int]] = []
        for n, node in enumerate(self.nodes):
            node._may_start = lambda stage, task, n=n: self.threshold or self._gets(n, task, stage)
        self.rate = self.wait.offload_bytes_per_s
        # Activations in the host's memory, by node, stage and task; order of forwards by GPU.
        self.away: set[tuple[int, int, int]] = set()
        self.begun: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.memory = instance.cluster.memory_bytes.tolist()
        self.now_s = 0.0

    def _look(self, now_s: float, item: Item) -> None:
        """Take a look for a task that waits for memory."""
        task = item[0]
        if task not in self.waits or self.waits[task][1] != now_s:
            return
        deadline_s, _ = self.waits[task]
        n = self.placed[task]
        phase, stage, _ = self.nodes[n].position[item]
        gpu = self.nodes[n].gpus[stage]
        if self._room(n, task, stage):
            del self.waits[task]
            self.touched.add(n)
        elif now_s >= deadline_s and self.rate:
            self.waits[task] = (deadline_s, inf)
            self.touched.add(n)
        elif now_s >= deadline_s:
            del self.waits[task]
            queue = gpu.forwards if phase == FORWARD else gpu.backwards
            queue[:] = [entry for entry in queue if entry[1][0] != task]
            self._drop(now_s, task, phase, stage)
        else:
            self._look_at(task, deadline_s, min(now_s + self.wait.poll_s, deadline_s))

    def _look_at(self, task: int, deadline_s: float, look_s: float) -> None:
        self.waits[task] = (deadline_s, look_s)
        if look_s < inf:
            self._push(look_s, _LOOK, (task, 0), (task, 0), -1, -1)

    def _room(self, n: int, task: int, stage: int) -> bool:
        gpu = self.nodes[n].gpus[stage]
        if self.threshold:
            return gpu.used() <= gpu.capacity
        return gpu.has_room(self.nodes[n].need(task, stage))

    def _gets(self, n: int, task: int, stage: int) -> bool:
        """Ask for memory; one that does not get it waits, and is not asked before its look."""
        if task in self.waits and self.wait.poll_s > 0:
            return False
        if self._room(n, task, stage):
            self.waits.pop(task, None)
            return True
        if task not in self.waits:
            deadline_s = self.now_s + self.wait.max_wait_s
            poll_s = self.wait.poll_s
            look_s = min(self.now_s + poll_s, deadline_s) if poll_s > 0 else deadline_s
            self._look_at(task, deadline_s, look_s)
        return False

    def _arrive(self, now_s: float, items: list[Item], phase: int, stage: int) -> None:
        n = self.placed[items[0][0]]
        if self.threshold and self.end_state[items[0][0]] != DROPPED:
            self.touched.add(n)
            self.nodes[n].ready(now_s, items[0], phase, stage)
            return
        for s in range(self.stages):
            # What is on its way out keeps its memory until it is there.
            found = self.runs.get((n, s, 0), (-1, -1, -1))
            self.running[n, s] = found[0] if found[1] == OFFLOAD else -1
        super()._arrive(now_s, items, phase, stage)

    def _drop(self, now_s: float, task: int, phase: int, stage: int) -> None:
        n = self.placed[task]
        self.touched.add(n)
        self.keeps = {lane: kept for lane, kept in self.keeps.items() if kept[1][0] != task}
        if phase == BACKWARD:
            self.blocked.discard(n)
        for gpu in self.nodes[n].gpus:
            gpu.backwards[:] = [entry for entry in gpu.backwards if entry[1][0] != task]
        self.nodes[n].forget(task, set())
        self.end_state[task] = DROPPED
        self.out_of_memory.append((task, stage, n, now_s))
        self.policy.observe(self.state, Event("drop", now_s, task, n, phase, stage))
        self._release_after(task, now_s)
        self._wake(now_s)

    def _turn(self, node: Node, stage: int, lane: int) -> tuple[int, Item] | None:
        if (node.index, stage, lane) in self.keeps:
            return self.keeps[node.index, stage, lane]
        queue = node.gpus[stage].backwards
        if not self.threads:
            order = sorted(queue, key=lambda entry: entry[1] if node.order == "task_id" else entry)
            # Asking makes a task wait, so nobody behind the first one that may go is asked.
            asked = (e for e in order if self._is_next(node.index, stage, e[1][0]))
            first = list(islice(asked, 1))
            if first and node.order in ("reserve", "backward_first"):
                # Nobody asks a forward whether it fits.
                return BACKWARD, first[0][1]
            node.gpus[stage].backwards = first
            chosen = node.pick(stage, self.now_s)
            node.gpus[stage].backwards = queue
            return chosen
        if lane == 0:
            entry = node._forward(stage)
            return None if entry is None else (FORWARD, entry[1])
        return (BACKWARD, queue[0][1]) if queue else None

    def _dispatch(self, now_s: float, n: int) -> None:
        node = self.nodes[n]
        forward, backward, update = self.actual[n][:3]
        last, self.now_s = self.stages - 1, now_s
        for stage in range(last, -1, -1):
            for lane in (0, 1) if self.threads else (0,):
                gpu = node.gpus[stage]
                if (n, stage, lane) in self.runs:
                    continue
                if lane == 0 and stage == last and n in self.blocked:
                    continue
                if lane == 0 and stage == last and n in self.to_send:
                    task = self.to_send.pop(n)
                    end_s = now_s + self.instance.weight_sync.seconds
                    gpu.busy_until = end_s
                    gpu.running = not self.threads
                    self._run(now_s, (n, stage, lane), task, SYNC, end_s)
                    continue
                if self.rate and (n, stage, lane) not in self.keeps and self._make_room(n, stage):
                    continue
                chosen = self._turn(node, stage, lane)
                if chosen is None:
                    continue
                phase, item = chosen
                task = item[0]
                if (n, stage, task) in self.away and phase == BACKWARD:
                    self._reload(n, stage, item)
                    continue
                if self.rate:
                    self.keeps.pop((n, stage, lane), None)
                    if phase == FORWARD and self.training[task]:
                        self.begun[n, stage].append(task)
                if self.threshold:
                    if not self._gets(n, task, stage):
                        self.keeps[n, stage, lane] = chosen
                        continue
                    self.keeps.pop((n, stage, lane), None)
                    need = node.need(task, stage)
                    if phase == FORWARD and gpu.used() + need > self.memory[n][stage]:
                        gpu.forwards[:] = [entry for entry in gpu.forwards if entry[1][0] != task]
                        self.lost.append((task, phase, stage))
                        continue
                seconds = (forward if phase == FORWARD else backward)[task][stage]
                end_s = now_s + seconds
                busy_s = end_s + (update[stage] if phase == BACKWARD else 0.0)
                node.take(phase, item, stage, now_s, busy_s)
                gpu.running = not self.threads
                self._begin(now_s, item, phase, stage, end_s, True)

    def _is_next(self, n: int, stage: int, task: int) -> bool:
        return (n, stage, task) not in self.away or self._gets(n, task, stage)

    def _make_room(self, n: int, stage: int) -> bool:
        """Move activations out of a GPU on which an operation has waited too long."""
        gpu = self.nodes[n].gpus[stage]
        queued = [item[0] for _, item in gpu.forwards + gpu.backwards]
        late = [i for i in queued if i in self.waits and self.waits[i][0] <= self.now_s]
        if all(self._room(n, task, stage) for task in late):
            return False
        ready = [item[0] for _, item in gpu.backwards]
        for task in reversed(self.begun[n, stage]):
            if task in gpu.held and task not in ready:
                seconds = self.nodes[n].need(task, stage) / self.rate
                gpu.running = True
                gpu.busy_until = self.now_s + seconds
                self._run(self.now_s, (n, stage, 0), task, OFFLOAD, self.now_s + seconds)
                return True
        return False

    def _reload(self, n: int, stage: int, item: Item) -> None:
        task = item[0]
        node, (_, backward, update) = self.nodes[n], self.actual[n][:3]
        end_s = self.now_s + node.need(task, stage) / self.rate
        node.take(
            BACKWARD, item, stage, self.now_s, end_s + (backward[task][stage] + update[stage])
        )
        node.gpus[stage].held[task] = node.need(task, stage)
        self._run(self.now_s, (n, stage, 0), task, RELOAD, end_s)

    def _moved(self, now_s: float, item: Item, phase: int, stage: int) -> None:
        task = item[0]
        n = self.placed[task]
        self.touched.add(n)
        self.nodes[n].gpus[stage].running = False
        if phase == OFFLOAD:
            self.away.add((n, stage, task))
            del self.nodes[n].gpus[stage].held[task]
        else:
            self.away.discard((n, stage, task))
            self.nodes[n].ready(now_s, item, BACKWARD, stage)
            self.keeps[n, stage, 0] = (BACKWARD, item)

    def _after_dispatch(self, now_s: float) -> None:
        """Drop what did not get its memory; others may start in its place."""
        for task, phase, stage in self.lost:
            self._drop(now_s, task, phase, stage)
        self.lost.clear()

    def _begin(
        self, now_s: float, item: Item, phase: int, stage: int, end_s: float, told: bool
    ) -> None:
        task = item[0]
        n = self.placed[task]
        lane = int(self.threads and phase != FORWARD)
        self._run(now_s, (n, stage, lane), task, phase, end_s)
        used = self.nodes[n].gpus[stage].used()
        self.policy.observe(self.state, Event("start", now_s, task, n, phase, stage, used))

    def _run(
        self, now_s: float, lane: tuple[int, int, int], task: int, phase: int, end_s: float
    ) -> None:
        n, stage, side = lane
        self.runs[lane] = (task, phase, len(self.rows))
        self.rows.append((task, phase, stage, 0, n, now_s, end_s))
        self._push(end_s, _END, (task, 0), (task, 0), phase, stage)
        other = (n, stage, 1 - side)
        if other in self.runs and end_s > now_s and self._end_of(other) > now_s:
            self.slowed.add((n, stage))
            for at in (lane, other):
                self._move_end(now_s, at, self.factor[at[2]])

    def _end_of(self, lane: tuple[int, int, int]) -> float:
        return self.rows[self.runs[lane][2]][6]

    def _move_end(self, now_s: float, lane: tuple[int, int, int], factor: float) -> None:
        if factor == 1:
            return
        task, phase, row = self.runs[lane]
        end_s = now_s + (self._end_of(lane) - now_s) * factor
        self.rows[row] = (*self.rows[row][:6], end_s)
        self._push(end_s, _END, (task, 0), (task, 0), phase, lane[1])

    def _ended(self, now_s: float, item: Item, phase: int, stage: int) -> None:
        task = item[0]
        n = self.placed[task]
        side = int(self.threads and phase not in (FORWARD, SYNC))
        lane = (n, stage, side)
        found = self.runs.get(lane)
        # An end that has moved left its first event behind.
        if found is None or found[:2] != (task, phase) or self._end_of(lane) != now_s:
            return
        del self.runs[lane]
        other = (n, stage, 1 - side)
        if (n, stage) in self.slowed:
            self.slowed.discard((n, stage))
            if other in self.runs and self._end_of(other) > now_s:
                self._move_end(now_s, other, 1 / self.factor[other[2]])
        last = self.stages - 1
        if self.threads and phase == FORWARD and stage == last and self.training[task]:
            self.blocked.add(n)
        if phase in (OFFLOAD, RELOAD):
            self._moved(now_s, item, phase, stage)
            return
        super()._ended(now_s, item, phase, stage)
        if self.threads:
            self.nodes[n].gpus[stage].running = False
            if self.left[task] == 0 and phase in (BACKWARD, UPDATE):
                self.blocked.discard(n)
