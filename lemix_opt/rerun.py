"""A schedule's decisions under other costs: same nodes, same order on every GPU, new times."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise
from math import fsum, inf

import numpy as np

from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError, LemixError, UnsupportedError
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, DONE, DROPPED, FORWARD, UPDATE, Operations, Schedule

NOISE_S = 1e-9
"""Seconds by which a time may miss the planned one and still count as the same."""

_Gpu = tuple[int, int]
_Row = tuple[int, int, int, int, float, float]


def rerun(instance: Instance, plan: Schedule, costs: Costs, *, planned: bool) -> Schedule:
    """Run a schedule's decisions under `costs`, as early as its orders allow.

    Memory never makes an operation wait: on a GPU whose order is fixed, what is held when an
    operation's turn comes can only be freed by operations behind it. A forward that does not fit
    then is an out-of-memory event and its task is dropped.

    Parameters
    ----------
    instance : Instance
        Tasks and rules.
    plan : Schedule
        Decisions to be kept. Tasks that it did not finish stay unfinished.
    costs : Costs
        What operations really take, of the shape of the instance's own.
    planned : bool
        Whether operations also wait for their planned start.

    Raises
    ------
    FieldError
        If the plan does not belong to the instance or lacks operations.
    LemixError
        If its orders contradict each other, so that nothing can go on.
    """
    _check(instance, plan)
    return _Rerun(instance, plan, costs, planned).finish()


def _check(instance: Instance, plan: Schedule) -> None:
    rows, cluster = plan.operations, instance.cluster
    if plan.tasks != instance.tasks:
        raise FieldError(
            f"{plan.tasks} tasks", where="schedule", expected=f"{instance.tasks} as in the trace"
        )
    for name, column, limit in (
        ("node", rows.node, cluster.nodes),
        ("stage", rows.stage, cluster.stages),
    ):
        if rows.rows and int(np.max(column)) >= limit:
            raise FieldError(
                f"{name} {int(np.max(column))}",
                where=f"operations.{name}",
                expected=f"less than {limit}",
            )
    if np.any(rows.micro_batch):
        raise UnsupportedError("micro-batches are not replayed yet", where="operations.micro_batch")
    counts = np.zeros((instance.tasks, 2), dtype=np.int64)
    work = rows.phase != UPDATE
    np.add.at(counts, (rows.task[work], rows.phase[work]), 1)
    wanted = cluster.stages * np.column_stack(
        [np.ones(instance.tasks, dtype=np.int64), instance.workload.is_training]
    )
    wrong = (plan.end_state == DONE) & np.any(counts != wanted, axis=1)
    moved = np.zeros(instance.tasks, dtype=bool)
    moved[rows.task[rows.node != plan.node[rows.task]]] = True
    bad = np.flatnonzero(wrong | moved)
    if bad.size:
        task = int(bad[0])
        raise FieldError(
            f"{counts[task].tolist()} forwards and backwards",
            where=f"schedule, task {task}",
            expected=f"{wanted[task].tolist()}, all on node {int(plan.node[task])}",
        )


class _Rerun:
    def __init__(self, instance: Instance, plan: Schedule, costs: Costs, planned: bool) -> None:
        self.instance, self.plan, self.planned = instance, plan, planned
        self.stages = instance.cluster.stages
        kind = instance.cluster.node_class
        self.seconds = (costs.forward_s.tolist(), costs.backward_s.tolist())
        self.update_s, self.hop_s = costs.update_s.tolist(), costs.hop_s.tolist()
        self.need = costs.held_bytes.tolist()
        self.kind = kind.tolist()
        self.capacity = instance.capacity_bytes.tolist()
        self.resident = costs.resident_bytes[kind].tolist()
        self.training = instance.workload.is_training.tolist()
        self.node = plan.node.tolist()
        self.end_state = plan.end_state.copy()
        self.release = plan.release_s.tolist()
        self.rows: list[_Row] = []
        self.lost: list[tuple[int, int, int, float]] = []
        self.gone: set[int] = set()
        self.heap: list[tuple[float, int, int, int, int]] = []
        self._read_plan()
        self._link_releases()

    def _read_plan(self) -> None:
        rows = self.plan.operations
        columns = (rows.task, rows.phase, rows.stage, rows.start_s, rows.end_s)
        table = list(zip(*(c.tolist() for c in columns), strict=True))
        self.want = {(i, p, s): (start, end) for i, p, s, start, end in table}
        self.order: dict[_Gpu, list[tuple[int, int]]] = {}
        # Ties are operations without length: they go first, in the order of their chain.
        for i, p, s, _, _ in sorted(table, key=lambda r: (r[3], r[4], r[1], r[0])):
            if p != UPDATE:
                self.order.setdefault((self.node[i], s), []).append((i, p))
        self.turn = dict.fromkeys(self.order, 0)
        self.free_at = dict.fromkeys(self.order, 0.0)
        self.running = dict.fromkeys(self.order, False)
        self.held: dict[_Gpu, dict[int, float]] = {gpu: {} for gpu in self.order}
        self.ready: dict[tuple[int, int, int], float] = {}
        self.was_lost = {task: (stage, at) for task, stage, _, at in self.plan.out_of_memory}

    def _link_releases(self) -> None:
        """Find which releases follow the closed loop; the plan's own ones stay where it did not."""
        own = self.instance.workload.release_s.tolist()
        mode = self.instance.release_mode
        loop = [i for i, trains in enumerate(self.training) if trains and mode != "open"]
        self.follower: dict[int, int] = {}
        phase = FORWARD if mode == "async" else BACKWARD
        for before, task in pairwise(loop):
            end = self.want.get((before, phase, 0), (inf, inf))[1]
            event = min(end, self.was_lost.get(before, (0, inf))[1])
            followed = max(own[task], event)
            if followed < inf and abs(followed - self.release[task]) <= NOISE_S:
                self.follower[before] = task
        held_back = set(self.follower.values())
        for task, time_s in enumerate(own):
            if task not in held_back:
                alone = task not in loop[1:]
                self._release(task, time_s if alone else max(time_s, self.release[task]))

    def _release(self, task: int, time_s: float) -> None:
        self.release[task] = time_s
        if time_s < inf:
            self._arrive(task, FORWARD, 0, time_s)

    def _release_after(self, task: int, time_s: float) -> None:
        follower = self.follower.pop(task, None)
        if follower is not None:
            own = float(self.instance.workload.release_s[follower])
            self._release(follower, max(own, time_s))

    def _arrive(self, task: int, phase: int, stage: int, time_s: float) -> None:
        if (task, phase, stage) in self.want:
            self.ready[task, phase, stage] = time_s
            heappush(self.heap, (time_s, 1, task, phase, stage))
        elif phase == FORWARD and self.was_lost.get(task, (-1, 0.0))[0] == stage:
            heappush(self.heap, (time_s, 2, task, phase, stage))

    def finish(self) -> Schedule:
        while self.heap:
            now_s = self.heap[0][0]
            touched: set[_Gpu] = set()
            while self.heap and self.heap[0][0] <= now_s:
                time_s, rank, task, phase, stage = heappop(self.heap)
                if rank == 0:
                    self._end(time_s, task, phase, stage)
                elif rank == 2:
                    self._drop(task, stage, time_s)
                if self.node[task] >= 0:
                    touched.add((self.node[task], stage))
            for gpu in sorted(touched & set(self.order)):
                self._go_on(gpu, now_s)
        for gpu, queue in self.order.items():
            if self.turn[gpu] < len(queue):
                task, phase = queue[self.turn[gpu]]
                raise LemixError(
                    f"task {task}, {('forward', 'backward')[phase]}, can never start",
                    where=f"schedule, node {gpu[0]}, stage {gpu[1]}",
                    expected="orders on the GPUs that do not contradict each other",
                )
        table = np.array(self.rows, dtype=np.float64).reshape(-1, 6)
        whole = table[:, :4].astype(np.int64)
        rows = Operations(
            whole[:, 0],
            whole[:, 1],
            whole[:, 2],
            np.zeros_like(whole[:, 0]),
            whole[:, 3],
            table[:, 4],
            table[:, 5],
        )
        return Schedule(
            self.plan.node, rows, self.end_state, np.array(self.release), tuple(self.lost)
        )

    def _go_on(self, gpu: _Gpu, now_s: float) -> None:
        queue, stage = self.order[gpu], gpu[1]
        while not self.running[gpu] and self.turn[gpu] < len(queue):
            task, phase = queue[self.turn[gpu]]
            if task in self.gone:
                self.turn[gpu] += 1
                continue
            ready_s = self.ready.get((task, phase, stage))
            if ready_s is None:
                return
            wanted = self.want[task, phase, stage][0]
            start_s = max(ready_s, self.free_at[gpu])
            if self.planned:
                start_s = max(start_s, wanted)
            if start_s > now_s:
                heappush(self.heap, (start_s, 1, task, phase, stage))
                return
            self.turn[gpu] += 1
            held = self.held[gpu]
            if phase == FORWARD:
                need = self.need[self.kind[gpu[0]]][task][stage]
                used = fsum((self.resident[gpu[0]][stage], *held.values(), need))
                if used > self.capacity[gpu[0]][stage]:
                    self._drop(task, stage, now_s)
                    continue
                held[task] = need
            self._start(gpu, task, phase, start_s)

    def _start(self, gpu: _Gpu, task: int, phase: int, start_s: float) -> None:
        node, stage = gpu
        kind = self.kind[node]
        end_s = self._row(gpu, task, phase, start_s, self.seconds[phase][kind][task][stage])
        self.running[gpu] = True
        heappush(self.heap, (end_s, 0, task, phase, stage))
        self.free_at[gpu] = end_s
        update = self.update_s[kind][stage]
        if phase == BACKWARD and update > 0:
            self.free_at[gpu] = self._row(gpu, task, UPDATE, end_s, update)
            heappush(self.heap, (self.free_at[gpu], 1, task, UPDATE, stage))

    def _row(self, gpu: _Gpu, task: int, phase: int, start_s: float, seconds: float) -> float:
        wanted = self.want.get((task, phase, gpu[1]), (-inf, -inf))
        if abs(start_s - wanted[0]) <= NOISE_S:
            start_s = wanted[0]
        end_s = start_s + seconds
        if abs(end_s - wanted[1]) <= NOISE_S:
            end_s = wanted[1]
        self.rows.append((task, phase, gpu[1], gpu[0], start_s, end_s))
        return end_s

    def _end(self, now_s: float, task: int, phase: int, stage: int) -> None:
        gpu = (self.node[task], stage)
        self.running[gpu] = False
        if phase == BACKWARD or not self.training[task]:
            self.held[gpu].pop(task, None)
        hop = self.hop_s[self.kind[gpu[0]]][task]
        if phase == FORWARD:
            if stage == 0 and self.instance.release_mode == "async":
                self._release_after(task, now_s)
            if stage + 1 < self.stages:
                self._arrive(task, FORWARD, stage + 1, now_s + hop[stage])
            elif self.training[task]:
                self._arrive(task, BACKWARD, stage, now_s)
        elif stage:
            self._arrive(task, BACKWARD, stage - 1, now_s + hop[stage - 1])
        else:
            self._release_after(task, now_s)

    def _drop(self, task: int, stage: int, now_s: float) -> None:
        self.end_state[task] = DROPPED
        self.lost.append((task, stage, self.node[task], now_s))
        self.gone.add(task)
        for held in self.held.values():
            held.pop(task, None)
        self._release_after(task, now_s)
        # Its turn may be holding up other GPUs of the node.
        for gpu in self.order:
            if gpu[0] == self.node[task]:
                heappush(self.heap, (now_s, 1, task, FORWARD, gpu[1]))
