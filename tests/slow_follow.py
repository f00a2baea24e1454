"""A slow, plain execution of a given order, with which the compiled one must agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from math import fsum, inf

import numpy as np
from slow_follow_check import chain_of, slow_check

from lemix_opt.costs import Costs
from lemix_opt.errors import LemixError
from lemix_opt.instance import Instance
from lemix_opt.schedule import (
    BACKWARD,
    DROPPED,
    FORWARD,
    PHASES,
    UPDATE,
    Operations,
    Schedule,
)

NOISE_S = 1e-9
"""Seconds within which a moment counts as the planned one."""
NOISE_BYTES = 1e-3
"""Bytes by which sums of gigabytes may be off."""


@dataclass(slots=True, eq=False)
class Op:
    """One planned operation: where and when it is to run, and what has become of it."""

    id: int
    task: int
    item: int  # a micro-batch of the task
    phase: int
    stage: int
    gpu: int
    plan_s: float
    seconds: float
    update_s: float
    hop_s: float = 0.0
    last: bool = False  # the task's last backward on its stage, followed by the update
    free: bool = False  # takes no time and, as planned, no turn on its GPU
    offered: bool = False
    ended: bool = False


def slow_follow(instance: Instance, actual: Costs, plan: Schedule, planned: bool) -> Schedule:
    """Execute a schedule in its own order, as early as possible.

    Parameters
    ----------
    instance : Instance
        Rules and releases.
    actual : Costs
        Seconds and bytes that really happen.
    plan : Schedule
        Placement and order; every micro-batch holds a beginning of its chain.
    planned : bool
        Whether operations also wait for their planned starts.

    Raises
    ------
    FieldError
        If the schedule does not fit the instance.
    LemixError
        If operations wait for each other in a cycle.
    """
    slow_check(instance, plan)
    return _Run(instance, actual, plan, planned).finish()


# What falls on one moment: ends, planned drops, places given up, starts, and last the drops for
# lack of memory.
_END, _PLANNED_DROP, _GIVE_WAY, _START, _LAST = range(5)


class _Run:
    def __init__(self, instance: Instance, costs: Costs, plan: Schedule, planned: bool) -> None:
        self.instance, self.actual, self.plan = instance, costs, plan
        self.planned = planned
        tasks, self.stages = instance.tasks, instance.cluster.stages
        self.width = instance.micro_batches
        self.training = instance.workload.is_training.tolist()
        self.own_release = instance.workload.release_s.tolist()
        self.release = [inf] * tasks
        self.end_state = plan.end_state.tolist()
        self.gone = [False] * tasks
        self.at = [0] * (tasks * self.width)
        self.ready: list[float | None] = [None] * (tasks * self.width)
        # By task: micro-batches that are still to pass what all of them have to pass.
        self.before_loop = [len(self._items(i)) for i in range(tasks)]
        self.before_flush = list(self.before_loop)
        self.told = {(i, s): time_s for i, s, _, time_s in plan.out_of_memory}
        self.gives_way = dict(plan.gave_way)
        self.gave_way: list[tuple[int, float]] = []
        gpus = instance.cluster.nodes * self.stages
        kind = instance.cluster.node_class
        room = instance.capacity_bytes - costs.resident_bytes[kind]
        self.room = room.reshape(-1).tolist()
        self.running: list[Op | None] = [None] * gpus
        self.idle_from = [-inf] * gpus
        self.turn = [0] * gpus
        self.held: list[dict[int, float]] = [{} for _ in range(gpus)]
        self.blocked: dict[int, tuple[float, Op]] = {}
        self.rows: list[tuple[int, int, int, int, int, float, float]] = []
        self.out_of_memory: list[tuple[int, int, int, float]] = []
        self.heap: list[tuple[float, int, int, Op | None]] = []
        self.now_s = 0.0
        self._lay_out()
        self._close_loop()

    def _items(self, task: int) -> range:
        """Numbers of a task's micro-batches; an inference task is one item."""
        first = task * self.width
        return range(first, first + (self.width if self.training[task] else 1))

    def _lay_out(self) -> None:
        """Put the planned operations into chains of tasks and queues of GPUs."""
        o, costs, stages = self.plan.operations, self.actual, self.stages
        columns = (o.task, o.phase, o.stage, o.micro_batch, o.start_s, o.end_s)
        self.span = {
            (i, p, s, m): (b, e)
            for i, p, s, m, b, e in zip(*(c.tolist() for c in columns), strict=True)
        }
        kind = self.instance.cluster.node_class
        self.chain: list[list[Op]] = []
        self.queue: list[list[Op]] = [[] for _ in self.room]
        count = 0
        for i, node in enumerate(self.plan.node.tolist()):
            k, items = int(kind[node]), self._items(i)
            self.chain += [[] for _ in range(self.width)]
            for item in items:
                for phase, s in chain_of(self.training[i], stages):
                    key = (i, phase, s, item - items[0])
                    if key not in self.span:
                        break
                    begin, gpu = float(self.span[key][0]), node * stages + s
                    whole = (costs.forward_s if phase == FORWARD else costs.backward_s)[k, i, s]
                    op = Op(count, i, item, phase, s, gpu, begin, float(whole) / len(items), 0.0)
                    if phase == FORWARD and s < stages - 1:
                        op.hop_s = float(costs.hop_s[k, i, s])
                    elif phase == BACKWARD and s > 0:
                        op.hop_s = float(costs.hop_s[k, i, s - 1])
                    self.chain[item].append(op)
                    self.queue[op.gpu].append(op)
                    count += 1
            for s in range(stages if self.training[i] else 0):
                self._close_backwards(i, s, float(costs.closing_s[k, s]))
        for queue in self.queue:
            queue.sort(key=lambda op: (op.plan_s, self._planned_end(op), op.id))
            until = -inf
            for op in queue:
                op.free = op.seconds + op.update_s == 0 and until > op.plan_s + NOISE_S
                until = max(until, self._planned_end(op))
            queue[:] = [op for op in queue if not op.free]

    def _close_backwards(self, task: int, stage: int, update_s: float) -> None:
        """Let the update follow the task's last backward on a stage, if all of them ran."""
        place = 2 * self.stages - 1 - stage
        items = self._items(task)
        ops = [self.chain[i][place] for i in items if len(self.chain[i]) > place]
        if len(ops) == len(items):
            last = max(ops, key=lambda op: (op.plan_s, op.id))
            last.last, last.update_s = True, update_s

    def _planned_end(self, op: Op) -> float:
        own = self.span[op.task, op.phase, op.stage, op.item % self.width]
        update = (op.task, UPDATE, op.stage, 0)
        return float((self.span.get(update, own) if op.last else own)[1])

    def _close_loop(self) -> None:
        """Release all tasks but the training tasks that wait for the one before them."""
        loop = [i for i, trains in enumerate(self.training) if trains]
        self.successor: dict[int, int] = {}
        self.event = FORWARD if self.instance.release_mode == "async" else BACKWARD
        for ahead, task in pairwise(loop if self.instance.release_mode != "open" else []):
            parts = range(len(self._items(ahead)))
            ends = [self.span.get((ahead, self.event, 0, m), (inf, inf))[1] for m in parts]
            planned_s = max(ends)
            if planned_s == inf and self.plan.end_state[ahead] == DROPPED:
                drops = [time_s for (i, _), time_s in self.told.items() if i == ahead]
                planned_s = max(drops, default=inf)
            planned_s = min(planned_s, self.gives_way.get(ahead, inf))
            stored = float(self.plan.release_s[task])
            if stored < max(self.own_release[task], planned_s) - NOISE_S:
                self.own_release[task] = max(self.own_release[task], stored)
            else:
                self.successor[ahead] = task
        heads = set(self.successor.values())
        for task, time_s in enumerate(self.own_release):
            if task not in heads:
                self._release(task, time_s)

    def _release(self, task: int, time_s: float) -> None:
        self.release[task] = time_s
        for item in self._items(task):
            self.ready[item] = time_s
            self._offer(task, item)
        if task in self.gives_way:
            # A policy decided so at that moment, or would have when the task was released.
            heappush(self.heap, (max(time_s, self.gives_way[task]), _GIVE_WAY, task, None))

    def _give_way(self, task: int, time_s: float) -> None:
        """Let the training task behind a deferred one go ahead."""
        self.gave_way.append((task, time_s))
        self._release_after(task, time_s)

    def _release_after(self, task: int, time_s: float) -> None:
        follower = self.successor.pop(task, None)
        if follower is not None:
            self._release(follower, max(self.own_release[follower], time_s))

    def _time(self, earliest_s: float, plan_s: float) -> float:
        """Return when something begins that could at `earliest_s`; noise does not shift plans."""
        if earliest_s > plan_s + NOISE_S:
            return earliest_s
        return plan_s if self.planned or earliest_s >= plan_s - NOISE_S else earliest_s

    def _offer(self, task: int, item: int) -> None:
        """Take up the next operation of an item whose moment has become known."""
        ready_s, place = self.ready[item], self.at[item]
        leads = item == self._items(task)[0]
        if place < len(self.chain[item]):
            self._try(self.chain[item][place])
        elif leads and self.plan.end_state[task] == DROPPED and ready_s is not None:
            told = self.told.get((task, self._stage_after(task)), -inf)
            heappush(self.heap, (self._time(ready_s, told), _PLANNED_DROP, task, None))

    def _stage_after(self, task: int) -> int:
        chain = chain_of(self.training[task], self.stages)
        return chain[min(self.at[self._items(task)[0]], len(chain) - 1)][1]

    def _head(self, gpu: int) -> Op | None:
        queue = self.queue[gpu]
        while self.turn[gpu] < len(queue) and self.gone[queue[self.turn[gpu]].task]:
            self.turn[gpu] += 1
        return queue[self.turn[gpu]] if self.turn[gpu] < len(queue) else None

    def _try(self, op: Op | None) -> None:
        """Plan the start of an operation that is ready and whose turn it is."""
        if op is None or op.offered or self.at[op.item] >= len(self.chain[op.item]):
            return
        earliest = self.ready[op.item]
        if earliest is None or self.chain[op.item][self.at[op.item]] is not op:
            return
        if not op.free:
            if self.running[op.gpu] is not None or self._head(op.gpu) is not op:
                return
            earliest = max(earliest, self.idle_from[op.gpu])
        op.offered = True
        heappush(self.heap, (self._time(earliest, op.plan_s), _START, op.id, op))

    def finish(self) -> Schedule:
        """Run to the end and return what was executed."""
        while self.heap or self.blocked:
            if not self.heap:
                _, op = self.blocked.pop(min(self.blocked, key=lambda g: (self.blocked[g][0], g)))
                self._drop(op.task, op.stage, self.now_s)
                continue
            time_s, rank, number, todo = heappop(self.heap)
            if rank == _GIVE_WAY and number not in self.successor:
                continue
            self.now_s = time_s
            if rank == _GIVE_WAY:
                self._give_way(number, time_s)
            elif todo is None:
                self._planned_drop(number)
            elif rank == _END:
                self._end(todo)
            elif not self.gone[todo.task]:
                self._start(todo, rank)
        stuck = [op for queue in self.chain for op in queue if not op.ended]
        stuck = [op for op in stuck if not self.gone[op.task]]
        if stuck:
            raise self._cycle(stuck[0])
        table = np.array(self.rows, dtype=np.float64).reshape(-1, 7)
        task, phase, stage, part, node = table[:, :5].astype(np.int64).T
        return Schedule(
            self.plan.node,
            Operations(task, phase, stage, part, node, table[:, 5], table[:, 6]),
            np.array(self.end_state, dtype=np.int64),
            np.array(self.release, dtype=np.float64),
            tuple(self.out_of_memory),
            gave_way=tuple(sorted(self.gave_way)),
        )

    def _start(self, op: Op, rank: int) -> None:
        held = self.held[op.gpu]
        if op.phase == FORWARD:
            kind = self.instance.cluster.node_class[op.gpu // self.stages]
            need = float(self.actual.held_bytes[kind, op.task, op.stage])
            need /= len(self._items(op.task))
            if fsum((*held.values(), need)) > self.room[op.gpu] + NOISE_BYTES:
                # What fits nowhere goes first: it may free what another one waits for right now.
                if need > self.room[op.gpu] + NOISE_BYTES:
                    self._drop(op.task, op.stage, self.now_s)
                elif any(self._will_free(i, op.stage) for i in held):
                    self.blocked[op.gpu] = (self.now_s, op)
                elif rank == _START:
                    heappush(self.heap, (self.now_s, _LAST, op.id, op))
                else:
                    self._drop(op.task, op.stage, self.now_s)
                return
            held[op.item] = need
        begin = self._time(self.now_s, op.plan_s)
        if op.task in self.gives_way and op.task in self.successor:
            # It starts before it was to give way: whoever waits for it waits no longer than that.
            self._give_way(op.task, begin)
        end, node = begin + op.seconds, op.gpu // self.stages
        self.ready[op.item] = None
        if not op.free:
            self.running[op.gpu] = op
        part = op.item % self.width
        self.rows.append((op.task, op.phase, op.stage, part, node, begin, end))
        if op.update_s > 0:
            self.rows.append((op.task, UPDATE, op.stage, 0, node, end, end + op.update_s))
        heappush(self.heap, (end, _END, op.id, op))

    def _will_free(self, item: int, stage: int) -> bool:
        """Whether an item frees its memory without taking a turn on the GPU that waits for it."""
        if self.plan.end_state[item // self.width] == DROPPED:
            return True
        return any(op.free and op.stage == stage for op in self.chain[item][self.at[item] :])

    def _end(self, op: Op) -> None:
        task, end_s = op.task, self.now_s
        op.ended = True
        if self.gone[task]:
            self._free(self._items(task), op.gpu)
        else:
            self._advance(op)
        if not op.free:
            self.running[op.gpu] = None
            self.idle_from[op.gpu] = end_s + op.update_s
            if not self.gone[task]:
                self.turn[op.gpu] += 1
            self._try(self._head(op.gpu))

    def _advance(self, op: Op) -> None:
        """Make ready what waited for the end of an operation."""
        task, item, end_s = op.task, op.item, self.now_s
        self.at[item] += 1
        self.ready[item] = end_s + op.hop_s
        if op.phase == BACKWARD or not self.training[task]:
            self._free([item], op.gpu)
        if op.stage == 0 and op.phase == self.event:
            self.before_loop[task] -= 1
            if self.before_loop[task] == 0:
                self._release_after(task, end_s)
        if self._flushes(op):
            # GPipe: no backward before the last forward on the last stage.
            self.before_flush[task] -= 1
            turned = self._items(task) if self.before_flush[task] == 0 else range(0)
            self.ready[item] = None
            for sibling in turned:
                self.ready[sibling] = end_s
                self._offer(task, sibling)
        else:
            self._offer(task, item)

    def _flushes(self, op: Op) -> bool:
        """Whether an operation is a forward that all backwards of its task wait for."""
        turns = op.phase == FORWARD and op.stage == self.stages - 1
        return turns and self.training[op.task] and self.instance.pipeline == "gpipe"

    def _free(self, items: Iterable[int], gpu: int) -> None:
        for item in items:
            self.held[gpu].pop(item, None)
        if gpu in self.blocked:
            _, op = self.blocked.pop(gpu)
            heappush(self.heap, (self.now_s, _START, op.id, op))

    def _planned_drop(self, task: int) -> None:
        if (task, self._stage_after(task)) in self.told:
            self._drop(task, self._stage_after(task), self.now_s)
        else:
            self._drop(task, -1, self.now_s)

    def _drop(self, task: int, stage: int, time_s: float) -> None:
        """Take a task out for lack of memory; the stage is −1 if the plan tells of no event."""
        node = int(self.plan.node[task])
        if self.gone[task]:
            return
        self.gone[task] = True
        self.end_state[task] = DROPPED
        for item in self._items(task):
            self.ready[item] = None
        if stage >= 0:
            self.out_of_memory.append((task, stage, node, time_s))
        self._release_after(task, time_s)
        if node >= 0:
            for gpu in range(node * self.stages, (node + 1) * self.stages):
                running = self.running[gpu]
                # A micro-batch that runs keeps its memory until it ends.
                if running is None or running.task != task:
                    self._free(self._items(task), gpu)
                self._try(self._head(gpu))

    def _cycle(self, op: Op) -> LemixError:
        """Follow what waits for what until it repeats, or leads to what never runs."""
        seen: list[Op] = []
        name = "nothing"
        while op not in seen:
            seen.append(op)
            place = self.at[op.item]
            ahead = self._head(op.gpu)
            if self.chain[op.item][place] is not op:
                op = self.chain[op.item][place]
            elif self.ready[op.item] is None and place:
                turns = [self.chain[i][self.stages - 1] for i in self._items(op.task)]
                op = next(turn for turn in turns if not turn.ended)
            elif self.ready[op.item] is None:
                before = next(i for i, j in self.successor.items() if j == op.task)
                chains = [self.chain[i] for i in self._items(before)]
                events = [e for c in chains for e in c if (e.phase, e.stage) == (self.event, 0)]
                if len(events) < len(chains):
                    name = f"{PHASES[self.event]} of task {before} on stage 0, which is not planned"
                    break
                op = next(event for event in events if not event.ended)
            elif ahead is not None:
                op = ahead
        else:
            seen = seen[seen.index(op) :]
            name = self._say(op)
        text = ", which waits for ".join([*map(self._say, seen), name])
        return LemixError(f"the schedule cannot be executed: {text}", where="schedule")

    def _say(self, op: Op) -> str:
        node = op.gpu // self.stages
        return f"{PHASES[op.phase]} of task {op.task} on node {node} stage {op.stage}"
