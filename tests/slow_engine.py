"""A slow, plain event loop with which the compiled one must agree, event by event."""

from __future__ import annotations

from collections import defaultdict
from heapq import heappop, heappush
from itertools import pairwise
from math import inf

import numpy as np
from slow_node import SLACK_BYTES, Item, Node

from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError, LemixError
from lemix_opt.instance import Instance
from lemix_opt.policy import Assign, Defer, Event, Policy
from lemix_opt.schedule import (
    BACKWARD,
    DEFERRED,
    DONE,
    DROPPED,
    FORWARD,
    SYNC,
    UNFINISHED,
    UPDATE,
    Operations,
    Schedule,
)

# Order of what falls on one moment: ends, arrivals after a hop, first decisions, repeated ones,
# looks for memory.
_END, _ARRIVE, _DECIDE, _RETRY, _LOOK = range(5)


def slow_simulate(
    instance: Instance, policy: Policy, actual: Costs | None = None, seed: int = 0
) -> Schedule:
    """Do what `lemix_opt.simulate` does, one obvious step after another."""
    from slow_shared import SharedRun

    costs = instance.costs if actual is None else actual
    if costs.forward_s.shape != instance.costs.forward_s.shape:
        raise FieldError(
            f"shape {costs.forward_s.shape}",
            where="actual.forward_s",
            expected=f"shape {instance.costs.forward_s.shape} as predicted",
        )
    plain = set(instance.beyond_exact_model) <= {"pipeline", "weight_sync"}
    return (_Run if plain else SharedRun)(instance, policy, costs, seed).finish()


class _Run:
    def __init__(self, instance: Instance, policy: Policy, costs: Costs, seed: int) -> None:
        self.instance = instance
        self.policy = policy
        self.stages = instance.cluster.stages
        self.training = instance.workload.is_training.tolist()
        self.own_release = instance.workload.release_s.tolist()
        self.release = [inf] * instance.tasks
        self.placed = [-1] * instance.tasks
        self.end_state = [UNFINISHED] * instance.tasks
        self.left = [0] * instance.tasks
        self.actual = [
            (
                costs.forward_s[k].tolist(),
                costs.backward_s[k].tolist(),
                (costs.update_s[k] + costs.all_reduce_s[k]).tolist(),
                costs.hop_s[k].tolist(),
                costs.held_bytes[k].tolist(),
                costs.resident_bytes[k].tolist(),
            )
            for k in instance.cluster.node_class.tolist()
        ]
        self.nodes = [Node(instance, n, a[4], a[5]) for n, a in enumerate(self.actual)]
        self.rows: list[tuple[int, int, int, int, int, float, float]] = []
        self.out_of_memory: list[tuple[int, int, int, float]] = []
        self.gave_way: list[tuple[int, float]] = []
        self.heap: list[tuple[float, int, Item, Item, int, int]] = []
        self.serial = 0
        self.waiting: list[int] = []
        self.touched: set[int] = set()
        self.trained = 0
        self.to_send: dict[int, int] = {}
        self.running: dict[tuple[int, int], int] = defaultdict(lambda: -1)
        # Successor of every training task in the closed loop, and whether it was released.
        loop = [i for i, trains in enumerate(self.training) if trains]
        self.successor = dict(pairwise(loop))
        if instance.release_mode == "open":
            loop, self.successor = [], {}
        heads = set(loop[1:])
        for task, time_s in enumerate(self.own_release):
            if task not in heads:
                self._release(task, time_s)
        self.state = policy.start(instance, np.random.default_rng(seed))

    def _push(
        self, time_s: float, rank: int, key: Item, item: Item, phase: int, stage: int
    ) -> None:
        heappush(self.heap, (time_s, rank, key, item, phase, stage))

    def _release(self, task: int, time_s: float) -> None:
        self.release[task] = time_s
        self._push(time_s, _DECIDE, (task, 0), (task, 0), -1, -1)

    def _release_after(self, task: int, time_s: float) -> None:
        follower = self.successor.pop(task, None)
        if follower is not None:
            self._release(follower, max(self.own_release[follower], time_s))

    def _retry(self, task: int, time_s: float) -> None:
        self.serial += 1
        self._push(time_s, _RETRY, (self.serial, 0), (task, 0), -1, -1)

    def finish(self) -> Schedule:
        heap = self.heap
        now_s = 0.0
        while heap or self.touched:
            now_s = now_s if self.touched else heap[0][0]
            while heap and heap[0][0] == now_s:
                _, rank, _, item, phase, stage = heappop(heap)
                if rank == _END:
                    self._ended(now_s, item, phase, stage)
                elif rank == _ARRIVE:
                    self.nodes[self.placed[item[0]]].travelling -= 1
                    self._arrive(now_s, [item], phase, stage)
                elif rank == _LOOK:
                    self._look(now_s, item)
                else:
                    self._decide(now_s, item[0])
            touched, self.touched = sorted(self.touched), set()
            for n in touched:
                self._dispatch(now_s, n)
            self._after_dispatch(now_s)
        table = np.array(self.rows, dtype=np.float64).reshape(-1, 7)
        whole = table[:, :5].astype(np.int64)
        rows = Operations(
            task=whole[:, 0],
            phase=whole[:, 1],
            stage=whole[:, 2],
            micro_batch=whole[:, 3],
            node=whole[:, 4],
            start_s=table[:, 5],
            end_s=table[:, 6],
        )
        return Schedule(
            np.array(self.placed, dtype=np.int64),
            rows,
            np.array(self.end_state, dtype=np.int64),
            np.array(self.release, dtype=np.float64),
            tuple(self.out_of_memory),
            gave_way=tuple(sorted(self.gave_way)),
        )

    def _decide(self, now_s: float, task: int) -> None:
        answer = self.policy.decide(self.state, now_s, task)
        if isinstance(answer, Assign):
            node = int(answer.node)
            if not 0 <= node < len(self.nodes):
                raise LemixError(
                    f"the policy placed task {task} on node {node}",
                    expected=f"a node from 0 to {len(self.nodes) - 1}",
                )
            self.placed[task] = node
            self.end_state[task] = UNFINISHED
            updates = sum(u > 0 for u in self.actual[node][2])
            parts = self.nodes[node].parts[task]
            self.left[task] = self.stages
            if self.training[task]:
                self.left[task] = 2 * self.stages * parts + updates
            self.policy.observe(self.state, Event("assign", now_s, task, node))
            self._arrive(now_s, [(task, part) for part in range(parts)], FORWARD, 0)
            return
        if not isinstance(answer, Defer) or answer.until not in ("time", "next_inference_done"):
            raise LemixError(
                f"the policy answered {answer!r} for task {task}",
                expected="Assign(node), Defer('time', at_s) or Defer('next_inference_done')",
            )
        self.end_state[task] = DEFERRED
        if not answer.keeps_place:
            if task in self.successor:
                self.gave_way.append((task, now_s))
            self._release_after(task, now_s)
        if answer.until == "next_inference_done":
            self.waiting.append(task)
        elif answer.at_s is None or not now_s < answer.at_s < inf:
            raise LemixError(
                f"the policy put task {task} off to {answer.at_s} s",
                expected=f"a finite time after {now_s:g} s",
            )
        else:
            self._retry(task, answer.at_s)

    def _arrive(self, now_s: float, items: list[Item], phase: int, stage: int) -> None:
        task = items[0][0]
        n = self.placed[task]
        if self.end_state[task] == DROPPED:
            return
        node = self.nodes[n]
        gpu = node.gpus[stage]
        self.touched.add(n)
        short = gpu.resident + node.need(task, stage) > gpu.capacity + SLACK_BYTES
        if phase == FORWARD and short:
            node.forget(task, {s for s in range(stage) if self.running[n, s] == task})
            self.end_state[task] = DROPPED
            self.out_of_memory.append((task, stage, n, now_s))
            self.policy.observe(self.state, Event("drop", now_s, task, n, phase, stage))
            self._release_after(task, now_s)
            self._wake(now_s)
            return
        for item in items:
            node.ready(now_s, item, phase, stage)

    def _look(self, now_s: float, item: Item) -> None:
        raise NotImplementedError

    def _after_dispatch(self, now_s: float) -> None:
        pass

    def _dispatch(self, now_s: float, n: int) -> None:
        node = self.nodes[n]
        # From the last stage down, so that what starts now already counts in reservations.
        for stage in range(self.stages - 1, -1, -1):
            if stage == self.stages - 1 and n in self.to_send and not node.gpus[stage].running:
                task = self.to_send.pop(n)
                end_s = now_s + self.instance.weight_sync.seconds
                node.gpus[stage].running = True
                node.gpus[stage].busy_until = end_s
                self.rows.append((task, SYNC, stage, 0, n, now_s, end_s))
                self._push(end_s, _END, (task, 0), (task, 0), SYNC, stage)
                continue
            chosen = node.pick(stage, now_s)
            if chosen is not None:
                self._begin_chosen(now_s, n, stage, *chosen)
        # Micro-batches of two tasks may wait for each other's backwards; one goes on regardless.
        parted = self.instance.micro_batches > 1
        for stage in range(self.stages - 1, -1, -1):
            chosen = node.pick(stage, now_s, waived=True) if parted and node.still() else None
            if chosen is not None:
                self._begin_chosen(now_s, n, stage, *chosen)

    def _begin_chosen(self, now_s: float, n: int, stage: int, phase: int, item: Item) -> None:
        node = self.nodes[n]
        forward, backward, update = self.actual[n][:3]
        task = item[0]
        seconds = (forward if phase == FORWARD else backward)[task][stage] / node.parts[task]
        busy_s = end_s = now_s + seconds
        if phase == BACKWARD and node.gpus[stage].returned[task] == node.parts[task] - 1:
            busy_s += update[stage]
        node.take(phase, item, stage, now_s, busy_s)
        gpu = node.gpus[stage]
        first = gpu.begun[task] == 1 if phase == FORWARD else gpu.returned[task] == 0
        self._begin(now_s, item, phase, stage, end_s, first)

    def _begin(
        self, now_s: float, item: Item, phase: int, stage: int, end_s: float, told: bool
    ) -> None:
        task, part = item
        part = 0 if phase == UPDATE else part
        n = self.placed[task]
        self.running[n, stage] = task
        self.rows.append((task, phase, stage, part, n, now_s, end_s))
        self._push(end_s, _END, item, item, phase, stage)
        used = self.nodes[n].gpus[stage].used()
        if told:
            self.policy.observe(self.state, Event("start", now_s, task, n, phase, stage, used))

    def _ended(self, now_s: float, item: Item, phase: int, stage: int) -> None:
        task = item[0]
        n = self.placed[task]
        node = self.nodes[n]
        gpu = node.gpus[stage]
        _, _, update, hop, _, _ = self.actual[n]
        gpu.running = False
        self.running[n, stage] = -1
        self.touched.add(n)
        if phase == SYNC:
            return
        training = self.training[task]
        if self.end_state[task] == DROPPED and phase != UPDATE:
            del gpu.held[task]
            return
        whole = phase == UPDATE or node.end(phase, task, stage)
        if whole:
            self.policy.observe(self.state, Event("end", now_s, task, n, phase, stage, gpu.used()))
        self.left[task] -= 1
        last = self.stages - 1
        if phase == FORWARD:
            if whole and stage == 0 and self.instance.release_mode == "async":
                self._release_after(task, now_s)
            if stage < last:
                self._next(now_s, item, FORWARD, stage + 1, hop[task][stage])
            elif training and self.instance.pipeline != "gpipe":
                self._next(now_s, item, BACKWARD, last, 0.0)
            elif training and whole:
                for part in range(node.parts[task]):
                    self._next(now_s, (task, part), BACKWARD, last, 0.0)
        elif phase == BACKWARD:
            if stage > 0:
                self._next(now_s, item, BACKWARD, stage - 1, hop[task][stage - 1])
            elif whole:
                self._release_after(task, now_s)
            if whole and update[stage] > 0:
                gpu.running = True
                self._begin(now_s, item, UPDATE, stage, now_s + update[stage], True)
        if self.left[task] == 0:
            self.end_state[task] = DONE
            sync = self.instance.weight_sync
            if not training:
                self._wake(now_s)
            elif sync is not None and n not in sync.serving:
                self.trained += 1
                if self.trained % sync.every == 0:
                    self.to_send[n] = task

    def _wake(self, now_s: float) -> None:
        for deferred in self.waiting:
            self._retry(deferred, now_s)
        self.waiting.clear()

    def _next(self, now_s: float, item: Item, phase: int, stage: int, hop_s: float) -> None:
        arrival = now_s + hop_s
        node = self.nodes[self.placed[item[0]]]
        node.position[item] = (phase, stage, arrival)
        node.travelling += 1
        self._push(arrival, _ARRIVE, item, item, phase, stage)
