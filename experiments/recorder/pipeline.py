"""Threads that run the stages of replicas, fed with tasks as they are released."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lemix_opt.checks import IntArray
from lemix_opt.schedule import BACKWARD, FORWARD, UPDATE
from lemix_opt.workload import Workload


class Stage(Protocol):
    """One stage of a replica; each method runs in the stage's own thread."""

    def enter(self) -> None:
        """Prepare the thread."""

    def timed(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        """Do work, wait until its device has done it; return start and end on the host's clock."""

    def forward(self, task: int, given: Any) -> Any:
        """Run a forward on what the stage before handed on; return what goes to the next one."""

    def backward(self, task: int, given: Any) -> Any:
        """Run a backward on a gradient (None on the last stage); return that of the input."""

    def update(self) -> None:
        """Step the optimizer."""


@dataclass(frozen=True)
class Ran:
    """What was executed, in nanoseconds of the host's monotonic clock.

    Parameters
    ----------
    task, phase, node, stage : int
        As in `lemix_opt.schedule.Operations`.
    start_ns, end_ns : int
        Begin and end of the work on its device.
    """

    task: int
    phase: int
    node: int
    stage: int
    start_ns: int
    end_ns: int


class _Box:
    """What a stage has to do: backwards first, forwards in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._todo: dict[int, deque[tuple[int, Any]]] = {BACKWARD: deque(), FORWARD: deque()}
        self._closed = False

    def put(self, phase: int, task: int, given: Any) -> None:
        with self._changed:
            self._todo[phase].append((task, given))
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> tuple[int, int, Any] | None:
        """Wait for work; None when the box is closed."""
        with self._changed:
            while not self._closed:
                for phase, queue in self._todo.items():
                    if queue:
                        return (phase, *queue.popleft())
                self._changed.wait()
            return None


class Pipeline:
    """Replicas of a pipeline, one thread per stage.

    A stage hands on a gradient after its own update, so that a backward and its update are one
    stretch of time on the stage's device.

    Parameters
    ----------
    stages : sequence of sequence of Stage
        By node and stage.
    workload : Workload
        Tasks and their own releases.
    node : ndarray of int, shape (T,)
        Where every task runs.
    release_mode : {"async", "sync"}
        Whether the next training task is released when the one before it has ended its first
        stage's forward, or its last backward.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Stage]],
        workload: Workload,
        node: IntArray,
        release_mode: str,
    ) -> None:
        self.stages, self.workload, self.node = stages, workload, node.tolist()
        self.event = FORWARD if release_mode == "async" else BACKWARD
        self.training = workload.is_training.tolist()
        self.boxes = [[_Box() for _ in replica] for replica in stages]
        self.ran: list[Ran] = []
        self.put_ns = [0] * workload.tasks
        self._changed = threading.Condition()
        self._done = 0
        self._passed: set[int] = set()
        self._failed: BaseException | None = None

    def run(self) -> int:
        """Run all tasks; return the moment that releases count from, in nanoseconds.

        Whatever a stage raises is raised again, after all threads have ended.
        """
        threads = [
            threading.Thread(target=self._serve, args=(n, s), name=f"node {n} stage {s}")
            for n, replica in enumerate(self.stages)
            for s in range(len(replica))
        ]
        for thread in threads:
            thread.start()
        try:
            zero_ns = time.perf_counter_ns()
            self._release_all(zero_ns)
        finally:
            for box in (box for replica in self.boxes for box in replica):
                box.close()
            for thread in threads:
                thread.join()
        if self._failed is not None:
            raise self._failed
        return zero_ns

    def _release_all(self, zero_ns: int) -> None:
        releases = self.workload.release_s.tolist()
        serving = deque(i for i, trains in enumerate(self.training) if not trains)
        loop = deque(i for i, trains in enumerate(self.training) if trains)
        ahead: int | None = None
        with self._changed:
            while self._done < len(releases) and self._failed is None:
                now_s = (time.perf_counter_ns() - zero_ns) / 1e9
                waits = []
                if serving and releases[serving[0]] > now_s:
                    waits.append(releases[serving[0]] - now_s)
                elif serving:
                    self._put(serving.popleft())
                    continue
                if loop and (ahead is None or ahead in self._passed):
                    if releases[loop[0]] <= now_s:
                        ahead = loop.popleft()
                        self._put(ahead)
                        continue
                    waits.append(releases[loop[0]] - now_s)
                self._changed.wait(min(waits, default=None))

    def _put(self, task: int) -> None:
        self.put_ns[task] = time.perf_counter_ns()
        self.boxes[self.node[task]][0].put(FORWARD, task, None)

    def _serve(self, node: int, stage: int) -> None:
        try:
            mine = self.stages[node][stage]
            mine.enter()
            while (todo := self.boxes[node][stage].take()) is not None:
                self._step(mine, node, stage, *todo)
        except BaseException as error:  # It is raised again in the caller's thread.
            with self._changed:
                self._failed = self._failed or error
                self._changed.notify()

    def _step(self, mine: Stage, node: int, stage: int, phase: int, task: int, given: Any) -> None:
        work = mine.forward if phase == FORWARD else mine.backward
        made, start_ns, end_ns = mine.timed(lambda: work(task, given))
        self.ran.append(Ran(task, phase, node, stage, start_ns, end_ns))
        if phase == BACKWARD:
            _, start_ns, end_ns = mine.timed(mine.update)
            self.ran.append(Ran(task, UPDATE, node, stage, start_ns, end_ns))
        boxes = self.boxes[node]
        if phase == FORWARD and stage + 1 < len(boxes):
            boxes[stage + 1].put(FORWARD, task, made)
        elif phase == FORWARD and self.training[task]:
            boxes[stage].put(BACKWARD, task, None)
        elif phase == BACKWARD and stage > 0:
            boxes[stage - 1].put(BACKWARD, task, made)
        else:
            with self._changed:
                self._done += 1
                self._changed.notify()
        if stage == 0 and phase == self.event:
            with self._changed:
                self._passed.add(task)
                self._changed.notify()
