"""GPUs with what has been placed on them, into whose gaps tasks are inserted."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.exact.chains import Chain
from solvers.exact.data import TickData
from solvers.exact.readout import Key

Span = tuple[int, int]


class Board:
    """A partial schedule in ticks that obeys every rule of the problem.

    Parameters
    ----------
    instance, data, chain
        The problem, its ticks and its chains.
    """

    def __init__(self, instance: Instance, data: TickData, chain: Sequence[Chain]) -> None:
        gpus = [(n, s) for n in range(instance.cluster.nodes) for s in range(data.room.shape[1])]
        self.data, self.chain = data, chain
        self.fifo = instance.fifo
        self.chained = instance.release_mode != "open"
        self.event_step = (FORWARD if instance.release_mode == "async" else BACKWARD, 0)
        self.training: list[bool] = instance.workload.is_training.tolist()
        self.busy: dict[tuple[int, int], list[Span]] = {gpu: [] for gpu in gpus}
        self.held: dict[tuple[int, int], list[tuple[int, int, int]]] = {gpu: [] for gpu in gpus}
        self.last_forward = dict.fromkeys(gpus, 0)
        self.event = 0
        self.node: dict[int, int] = {}
        self.starts: dict[Key, int] = {}

    def copy(self) -> Board:
        """Return a board that can be continued on its own."""
        other = object.__new__(Board)
        other.__dict__.update(self.__dict__)
        other.busy = {gpu: list(spans) for gpu, spans in self.busy.items()}
        other.held = {gpu: list(spans) for gpu, spans in self.held.items()}
        other.last_forward = dict(self.last_forward)
        other.node, other.starts = dict(self.node), dict(self.starts)
        return other

    def trial(self, i: int, n: int) -> list[int]:
        """Return the earliest starts of task i on node n beside what is placed."""
        chain = self.chain[i]
        at = chain.nodes.index(n)
        length, gap = chain.length[at].tolist(), chain.gap[at].tolist()
        tail = chain.tail[at].tolist()
        not_before = [0] * len(length)
        not_before[0] = int(self.data.release[i])
        if self.chained and self.training[i]:
            not_before[0] = max(not_before[0], self.event)
        if self.fifo:
            for k, (phase, s) in enumerate(chain.steps):
                if phase == FORWARD:
                    not_before[k] = max(not_before[k], self.last_forward[n, s])
        while True:
            starts, ready = [], 0
            for k, (_, s) in enumerate(chain.steps):
                ready = max(ready + gap[k], not_before[k])
                ready = _gap(self.busy[n, s], ready, length[k] + tail[k])
                starts.append(ready)
                ready += length[k]
            late = self._without_memory(i, n, starts, length)
            if late is None:
                return starts
            not_before[late[0]] = late[1]

    def _without_memory(
        self, i: int, n: int, starts: list[int], length: list[int]
    ) -> tuple[int, int] | None:
        """Return the first forward that finds no memory, and when to try again."""
        chain = self.chain[i]
        for k, (phase, s) in enumerate(chain.steps):
            need = int(self.data.held[n, i, s])
            if phase == FORWARD and need:
                last = len(chain.steps) - 1 - k if self.training[i] else k
                begin, end = starts[k], starts[last] + length[last]
                free = _clash(self.held[n, s], begin, end, int(self.data.room[n, s]) - need)
                if free is not None:
                    return k, free
        return None

    def place(self, i: int, n: int, starts: list[int]) -> int:
        """Put task i where `trial` found room and return its last end."""
        chain = self.chain[i]
        at, done = chain.nodes.index(n), 0
        self.node[i] = n
        for k, (phase, s) in enumerate(chain.steps):
            begin, end = starts[k], starts[k] + int(chain.length[at, k])
            closed = end + int(chain.tail[at, k])
            self.starts[i, phase, s] = begin
            done = max(done, closed)
            if closed > begin:
                insort(self.busy[n, s], (begin, closed))
            if phase == FORWARD:
                last = len(chain.steps) - 1 - k if self.training[i] else k
                free = starts[last] + int(chain.length[at, last])
                if self.data.held[n, i, s]:
                    insort(self.held[n, s], (begin, free, int(self.data.held[n, i, s])))
                self.last_forward[n, s] = max(self.last_forward[n, s], end)
            if self.training[i] and (phase, s) == self.event_step:
                self.event = end
        return done


def _gap(busy: list[Span], ready: int, length: int) -> int:
    """First tick from `ready` on with `length` free ticks."""
    if length:
        for begin, end in busy:
            if end <= ready:
                continue
            if ready + length <= begin:
                break
            ready = end
    return ready


def _clash(held: list[tuple[int, int, int]], begin: int, end: int, room: int) -> int | None:
    """Return None if at most `room` is held throughout, else the first release of some memory."""
    over = [h for h in held if h[0] < end and h[1] > begin]
    if sum(h[2] for h in over) <= room:
        return None
    for moment in (begin, *(h[0] for h in over if h[0] > begin)):
        if sum(h[2] for h in over if h[0] <= moment < h[1]) > room:
            return min(h[1] for h in over if h[0] <= moment < h[1])
    return None
