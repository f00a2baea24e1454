"""Token generation, request by request: what the compiled engine must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
from slow_engine import _ARRIVE, _Run
from slow_node import SLACK_BYTES, Item, Node

from lemix_opt import BatchObserved, Costs, Event, Instance, Policy, Schedule
from lemix_opt.generated import Generated, Iterations
from lemix_opt.schedule import BACKWARD, DONE, DROPPED, FORWARD, UPDATE


@dataclass
class Request:
    task: int
    prompt: int
    output: int
    made: int = 0
    cached: int = 0
    held: int = 0
    decodes: bool = False
    preemptions: int = 0
    ticket: int = 0
    start_s: float = inf
    first_s: float = inf
    last_s: float = inf

    @property
    def target(self) -> int:
        """Tokens to prefill before the next token comes out."""
        return self.prompt + self.made


@dataclass
class Batch:
    """What a node generates: requests in order of arrival, and the iteration under way."""

    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    decoding: list[Request] = field(default_factory=list)
    prefilled: list[tuple[Request, int]] = field(default_factory=list)
    under_way: bool = False
    counts: tuple[int, ...] = ()
    leaving: list[Request] = field(default_factory=list)
    came: int = 0
    seen: int = 0
    free: list[tuple[int, int]] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)


def on_curve(knots: list[float], seconds: list[float], tokens: int) -> float:
    """Seconds at a number of tokens: constant before the first knot, linear after it."""
    if len(knots) == 1 or tokens <= knots[0]:
        return seconds[0]
    at = max(i for i in range(len(knots) - 1) if knots[i] <= tokens)
    share = (tokens - knots[at]) / (knots[at + 1] - knots[at])
    return max(seconds[at] + share * (seconds[at + 1] - seconds[at]), 0.0)


class GatheringNode(Node):
    """A node with a batch, whose first stage may gather requests as the published program does."""

    run: Generating
    stance = "free"
    taken: tuple[float, Item] = (0.0, (-1, 0))
    deadline_s: float | None = None

    @property
    def own(self) -> Item:
        """The item that stands for this node's iterations."""
        return self.run.tasks + self.index, 0

    def take(self, phase: int, item: Item, stage: int, now_s: float, end_s: float) -> None:
        one_order = self.one_order
        self.one_order = one_order and item != self.own
        super().take(phase, item, stage, now_s, end_s)
        self.one_order = one_order

    def _forward(self, stage: int) -> tuple[float, Item] | None:
        entry = next((e for e in self.gpus[stage].forwards if e[1] == self.own), None)
        if stage == 0 and self.run.rule.rule == "reference":
            return super()._forward(stage) if self.stance == "free" else entry
        chosen = super()._forward(stage)
        # An iteration passes what waits for memory, and under one order what became ready later.
        if entry and (chosen is None or (self.one_order and stage and entry[0] < chosen[0])):
            return entry
        return chosen

    def pick(self, stage: int, now_s: float, waived: bool = False) -> tuple[int, Item] | None:
        if stage or self.run.rule.rule != "reference" or self.gpus[0].running:
            return super().pick(stage, now_s, waived)
        batch = self.run.batches[self.index]
        if self.stance == "free":
            chosen = super().pick(0, now_s, waived)
            if chosen is None or chosen[0] == BACKWARD or self.training[chosen[1][0]]:
                return chosen
            self.stance = "holds"
            self.taken = next(e for e in self.gpus[0].forwards if e[1] == chosen[1])
            self.gpus[0].forwards.remove(self.taken)
        if self.stance == "holds" and not batch.under_way:
            self.stance, self.deadline_s = "gathers", None
            if len(batch.running) < self.run.rule.batch_cap:
                batch.running.append(self.run.requests[self.taken[1][0]])
            else:
                self.gpus[0].forwards.append(self.taken)
                self.gpus[0].forwards.sort()
        if self.stance == "gathers" and self._gathered(batch, now_s):
            self.stance = "formed"
            self.run.start_padded(self.index, now_s)
        chosen = super().pick(0, now_s, waived)
        if chosen is not None and chosen[0] == FORWARD:
            self.stance = "free"
        return chosen

    def _gathered(self, batch: Batch, now_s: float) -> bool:
        while len(batch.running) < self.run.rule.batch_cap:
            entry = super()._forward(0)
            if entry is None:
                if self.deadline_s is None:
                    self.deadline_s = now_s + self.run.rule.wait_s
                    self.travelling += 1
                    self.run._push(self.deadline_s, _ARRIVE, self.own, self.own, UPDATE, 0)
                return now_s >= self.deadline_s
            if self.training[entry[1][0]]:
                return True
            self.gpus[0].forwards.remove(entry)
            batch.running.append(self.run.requests[entry[1][0]])
            self.deadline_s = None
        return True


class Generating(_Run):
    """The slow engine with a batch per node; its iterations are tasks of the numbers T + node."""

    def __init__(self, instance: Instance, policy: Policy, costs: Costs, seed: int) -> None:
        assert instance.generation is not None
        self.rule = instance.generation
        self.iteration = (instance.costs.iteration, costs.iteration)
        super().__init__(instance, policy, costs, seed)
        self.tasks, work = instance.tasks, instance.workload
        self.requests = [
            Request(i, int(work.prompt_tokens[i]), int(work.output_tokens[i]))
            for i in range(self.tasks)
        ]
        self.batches = [Batch() for _ in self.nodes]
        self.table: list[tuple[Any, ...]] = []
        rows = [[0.0] * self.stages for _ in self.nodes]
        for n, actual in enumerate(self.actual):
            forward, _, _, hop, held, _ = actual
            for i in range(self.tasks):
                if not self.training[i]:
                    held[i] = [0.0] * self.stages
            forward += [list(row) for row in rows]
            held += [list(row) for row in rows]
            hop += [self._coefficients(1, n, "hop_s") for _ in rows]
        self.training += [False for _ in rows]
        self.placed += list(range(len(rows)))
        self.end_state += [DONE for _ in rows]
        self.left += [0 for _ in rows]
        self.release += [0.0 for _ in rows]
        self.nodes = []
        for n, actual in enumerate(self.actual):
            node = GatheringNode(instance, n, actual[4], actual[5])
            node.run = self
            node.training = self.training
            node.parts += [1 for _ in rows]
            node.forward_s += [list(row) for row in rows]
            self.nodes.append(node)
            room = [
                int((gpu.capacity + SLACK_BYTES - gpu.resident) / each)
                for gpu, each in zip(
                    node.gpus, self._coefficients(1, n, "kv_bytes_per_token"), strict=True
                )
                if each
            ]
            if self.rule.keep_prefix:
                self.batches[n].free = [(-1, 0)] * min(room, default=0)

    def _coefficients(self, real: int, n: int, name: str) -> list[float]:
        kind = int(self.instance.cluster.node_class[n])
        found: list[float] = getattr(self.iteration[real], name)[kind].tolist()
        return found

    def _decide(self, now_s: float, task: int) -> None:
        if "batch" in getattr(self.policy, "observes", ()):
            for n, batch in enumerate(self.batches):
                lengths = tuple(r.prompt + r.made for r in batch.running)
                self.policy.observe(self.state, BatchObserved(now_s, n, lengths))
        super()._decide(now_s, task)

    def _arrive(self, now_s: float, items: list[Item], phase: int, stage: int) -> None:
        task = items[0][0]
        n = self.placed[task]
        node = self.nodes[n]
        if self.training[task]:
            super()._arrive(now_s, items, phase, stage)
            return
        self.touched.add(n)
        if task >= self.tasks or self.rule.rule == "reference":
            if phase != UPDATE:
                node.ready(now_s, items[0], phase, stage)
            return
        request = self.requests[task]
        most = request.prompt + request.output - 1
        for s, each in enumerate(self._coefficients(1, n, "kv_bytes_per_token")):
            if node.gpus[s].resident + most * each > node.gpus[s].capacity + SLACK_BYTES:
                self.end_state[task] = DROPPED
                self.out_of_memory.append((task, s, n, now_s))
                self.policy.observe(self.state, Event("drop", now_s, task, n, phase, stage))
                self._wake(now_s)
                return
        batch = self.batches[n]
        batch.came += 1
        request.ticket = batch.came
        batch.waiting.append(request)

    def _dispatch(self, now_s: float, n: int) -> None:
        if self.rule.rule == "continuous":
            self._form(now_s, n)
        super()._dispatch(now_s, n)
        # What is owed may wait for memory that requests hold; one forward goes on regardless.
        for stage in range(self.stages - 1, -1, -1):
            node = self.nodes[n]
            chosen = node.pick(stage, now_s, waived=True) if node.still() else None
            if chosen is not None:
                self._begin_chosen(now_s, n, stage, *chosen)

    def _fits(self, n: int, tokens: int) -> bool:
        each = self._coefficients(1, n, "kv_bytes_per_token")
        return all(g.has_room(tokens * e) for g, e in zip(self.nodes[n].gpus, each, strict=True))

    def _hold(self, n: int, request: Request, tokens: int) -> None:
        self._take(n, request, tokens)
        request.held = tokens
        each = self._coefficients(1, n, "kv_bytes_per_token")
        for gpu, bytes_per_token in zip(self.nodes[n].gpus, each, strict=True):
            gpu.held.pop(request.task, None)
            if tokens:
                gpu.held[request.task] = tokens * bytes_per_token

    def _take(self, n: int, request: Request, tokens: int) -> None:
        """Take tokens from the front of the free ones, or put a request's own back, last first.

        Free tokens are kept one by one, with whose they were; -1 is no one's.
        """
        free = self.batches[n].free
        if not self.rule.keep_prefix:
            return
        if tokens:
            del free[: tokens - request.held]
            return
        keeps = request.cached if not request.decodes else request.held
        over = request.made == request.output
        free += [
            (request.task, i) if i < keeps and not over else (-1, 0)
            for i in reversed(range(request.held))
        ]

    def _found(self, n: int, request: Request) -> int:
        """Take back what is left of the first tokens of a request that was preempted."""
        free, found = self.batches[n].free, 0
        while found < request.target - 1 and (request.task, found) in free:
            free.remove((request.task, found))
            found += 1
        return found

    def _leave(self, n: int) -> None:
        for request in self.batches[n].leaving:
            self._hold(n, request, 0)
        self.batches[n].leaving = []

    def _form(self, now_s: float, n: int) -> None:
        batch = self.batches[n]
        if batch.under_way:
            return
        seen, batch.seen = batch.seen, batch.came
        while batch.running and not self._fits(n, len(batch.decoding)):
            victim = batch.running.pop()
            self._hold(n, victim, 0)
            victim.cached = 0
            if victim.decodes:
                batch.decoding.remove(victim)
            victim.decodes = False
            victim.preemptions += 1
            batch.waiting.insert(0, victim)
        for request in batch.decoding:
            self._hold(n, request, request.held + 1)
        budget = inf if self.rule.chunk_tokens is None else self.rule.chunk_tokens
        budget -= len(batch.decoding)
        batch.prefilled = []
        pairs = 0
        for request in batch.running:
            if not request.decodes:
                new = int(min(request.target - request.cached, budget))
                batch.prefilled.append((request, new))
                pairs += new * (request.cached + new)
                budget -= new
        for known in (seen, inf) if self.rule.ahead else (inf,):
            while batch.waiting and budget > 0:
                request = batch.waiting[0]
                together = len(batch.running) + len(batch.leaving)
                late = request.ticket > known
                if together == self.rule.batch_cap or late or not self._fits(n, request.target):
                    break
                batch.running.append(batch.waiting.pop(0))
                request.cached = self._found(n, request)
                request.held = request.cached
                self._hold(n, request, request.target)
                new = int(min(request.target - request.cached, budget))
                batch.prefilled.append((request, new))
                pairs += new * (request.cached + new)
                budget -= new
            if batch.decoding or batch.prefilled:
                break
            self._leave(n)
        self._leave(n)
        if batch.decoding or batch.prefilled:
            tokens = sum(new for _, new in batch.prefilled)
            context = sum(r.prompt + r.made for r in batch.decoding)
            held = sum(r.held for r in batch.running)
            counts = (len(batch.prefilled), tokens, pairs, len(batch.decoding), context, held)
            self._start_iteration(n, counts, now_s)

    def start_padded(self, n: int, now_s: float) -> None:
        """Start a prefill of all rows at the longest length."""
        batch = self.batches[n]
        length = max(r.prompt + r.made for r in batch.running)
        rows = len(batch.running)
        batch.prefilled = [(r, length) for r in batch.running]
        self._start_iteration(n, (rows, rows * length, rows * length**2, 0, 0, 0), now_s)

    def _start_iteration(self, n: int, counts: tuple[int, ...], now_s: float) -> None:
        batch, own = self.batches[n], self.tasks + n
        batch.under_way, batch.counts = True, counts
        batch.start_s, batch.end_s = [0.0] * self.stages, [0.0] * self.stages
        _, tokens, pairs, decodes, context, _ = counts
        for real, rows in ((0, self.nodes[n].forward_s), (1, self.actual[n][0])):
            columns = [
                self._coefficients(real, n, name)
                for name in (
                    "base_s",
                    "per_prefill_token_s",
                    "per_prefill_pair_s",
                    "per_decode_s",
                    "per_context_token_s",
                    "per_mixed_decode_s",
                    "per_mixed_context_token_s",
                )
            ]
            mixed = 1.0 if tokens else 0.0
            rows[own] = [
                base
                + a * tokens
                + b * pairs
                + c * decodes
                + d * context
                + e * mixed * decodes
                + f * mixed * context
                for base, a, b, c, d, e, f in zip(*columns, strict=True)
            ]
            knots = self.iteration[real].token_knots.tolist()
            for s, curve in enumerate(self._coefficients(real, n, "token_s") if knots else []):
                rows[own][s] += on_curve(knots, curve, tokens + decodes)
        self.nodes[n].ready(now_s, (own, 0), FORWARD, 0)

    def _begin(
        self, now_s: float, item: Item, phase: int, stage: int, end_s: float, told: bool
    ) -> None:
        if item[0] < self.tasks:
            super()._begin(now_s, item, phase, stage, end_s, told)
            return
        batch = self.batches[item[0] - self.tasks]
        batch.start_s[stage], batch.end_s[stage] = now_s, end_s
        self._push(end_s, 0, item, item, phase, stage)

    def _ended(self, now_s: float, item: Item, phase: int, stage: int) -> None:
        task = item[0]
        if task < self.tasks:
            super()._ended(now_s, item, phase, stage)
            return
        n = task - self.tasks
        gpu = self.nodes[n].gpus[stage]
        gpu.running = False
        del gpu.held[task], gpu.begun[task]
        self.touched.add(n)
        if stage + 1 < self.stages:
            self._next(now_s, item, FORWARD, stage + 1, self.actual[n][3][task][stage])
            return
        batch = self.batches[n]
        batch.under_way = False
        self.table.append((n, batch.start_s, batch.end_s, *batch.counts))
        finish = self._close if self.rule.rule == "continuous" else self._close_padded
        done = finish(n, batch, now_s)
        if done:
            self._wake(now_s)

    def _close(self, n: int, batch: Batch, now_s: float) -> int:
        leaving = []
        for request in batch.decoding:
            request.made += 1
            request.last_s = now_s
            if request.made == request.output:
                leaving.append(request)
        for request, new in batch.prefilled:
            request.start_s = min(request.start_s, batch.start_s[0])
            request.cached += new
            if request.cached < request.target:
                continue
            request.made += 1
            request.last_s = now_s
            request.first_s = min(request.first_s, now_s)
            request.decodes = True
            batch.decoding.append(request)
            if request.made == request.output:
                leaving.append(request)
        for request in leaving:
            batch.running.remove(request)
            batch.decoding.remove(request)
            batch.leaving.append(request)
            if not self.rule.ahead:
                self._leave(n)
            self._done(n, request, now_s)
        return len(leaving)

    def _close_padded(self, n: int, batch: Batch, now_s: float) -> int:
        before = list(batch.running)
        for request, length in batch.prefilled:
            request.start_s = min(request.start_s, batch.start_s[0])
            request.first_s = min(request.first_s, now_s)
            request.made += 1
            request.last_s = now_s
            enough = request.made >= max(request.output, self.rule.least_tokens)
            if enough or length >= self.rule.clear_tokens:
                batch.running.remove(request)
                self._done(n, request, now_s)
        return len(before) - len(batch.running)

    def _done(self, n: int, request: Request, now_s: float) -> None:
        self.end_state[request.task] = DONE
        for s, gpu in enumerate(self.nodes[n].gpus):
            event = Event("end", now_s, request.task, n, FORWARD, s, gpu.used())
            self.policy.observe(self.state, event)

    def finish(self) -> Schedule:
        ran = super().finish()
        node, start, end, *counts = zip(*self.table, strict=True) if self.table else [[]] * 9
        shape = (-1, self.stages)
        iterations = Iterations(
            np.array(node, dtype=np.int64),
            np.array(start, dtype=np.float64).reshape(shape),
            np.array(end, dtype=np.float64).reshape(shape),
            *(np.array(column, dtype=np.int64) for column in counts),
        )
        columns = (
            [getattr(r, name) for r in self.requests]
            for name in ("start_s", "first_s", "last_s", "made", "preemptions")
        )
        generated = Generated(*(np.array(column) for column in columns), iterations)
        t = self.tasks
        return Schedule(
            ran.node[:t],
            ran.operations,
            ran.end_state[:t],
            ran.release_s[:t],
            ran.out_of_memory,
            generated,
            ran.gave_way,
        )


def slow_generate(
    instance: Instance, policy: Policy, actual: Costs | None = None, seed: int = 0
) -> Schedule:
    """Do what `lemix_opt.simulate` does where requests generate tokens."""
    costs = instance.costs if actual is None else actual
    return Generating(instance, policy, costs, seed).finish()
