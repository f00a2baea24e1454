"""What is wrong with an order in which operations wait for each other."""

from __future__ import annotations

from dataclasses import dataclass

from lemix_opt.engine.follow_books import Given, Progress
from lemix_opt.engine.planned import NONE, PLACE_MASK, PLACE_SHIFT, Layout, Queues
from lemix_opt.errors import LemixError
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES


def waiting_cycle(
    layout: Layout, queues: Queues, given: Given, run: Progress, number: int
) -> LemixError:
    """Follow what waits for what until it repeats, or leads to what never runs.

    Parameters
    ----------
    layout, queues, given, run
        The state in which nothing can happen any more.
    number : int
        Number of an operation that waits in it.
    """
    before = {after: i for i, after in enumerate(run.successor.tolist()) if after != NONE}
    return _Standstill(layout, queues, given, run, before).error(number)


@dataclass(frozen=True)
class _Standstill:
    """The state in which nothing can happen any more."""

    layout: Layout
    queues: Queues
    given: Given
    run: Progress
    before: dict[int, int]  # the training task that is to release a task

    def error(self, number: int) -> LemixError:
        seen: dict[int, int] = {}
        while number != NONE and number not in seen:
            seen[number] = len(seen)
            number = self._awaited(number)
        chain = list(seen)
        if number != NONE:
            chain = chain[seen[number] :]
        names = [self._say(one) for one in chain]
        names.append(self._say(number) if number != NONE else self._say_missing(chain[-1]))
        text = ", which waits for ".join(names)
        return LemixError(f"the schedule cannot be executed: {text}", where="schedule")

    def _awaited(self, number: int) -> int:
        """Return what an operation waits for; −1: for what is not planned."""
        item, place = _split(number)
        task, at = self._task(number), int(self.run.at[item])
        if at < place:
            return _joined(item, at)
        if self.run.ready_s[item] == self.run.ready_s[item]:
            ahead = self._head(self._gpu(number))
            return number if ahead == NONE else ahead
        # Not ready though next in its chain: GPipe's last forwards, or the loop, are to come.
        awaited = self.layout.stages - 1 if place else self._event()
        waits_for = task if place else self.before[task]
        items = self._items(waits_for)
        if not place and any(self.layout.chain[one] <= awaited for one in items):
            return NONE
        return _joined(next(one for one in items if self.run.at[one] <= awaited), awaited)

    def _task(self, number: int) -> int:
        return _split(number)[0] // self.layout.micro_batches

    def _items(self, task: int) -> range:
        parts = self.layout.micro_batches
        return range(task * parts, task * parts + (parts if self.layout.training[task] else 1))

    def _event(self) -> int:
        """Return the place in a chain whose end releases the next training task."""
        return 0 if self.given.event == FORWARD else 2 * self.layout.stages - 1

    def _gpu(self, number: int) -> int:
        return int(self.layout.node[self._task(number)]) * self.layout.stages + self._stage(number)

    def _stage(self, number: int) -> int:
        place = _split(number)[1]
        return place if place < self.layout.stages else 2 * self.layout.stages - 1 - place

    def _head(self, gpu: int) -> int:
        """Return the operation whose turn it is on a GPU; −1: none."""
        for at in range(int(self.run.turn[gpu]), int(self.queues.end[gpu])):
            number = int(self.queues.number[at])
            if not self.run.gone[self._task(number)]:
                return number
        return NONE

    def _say(self, number: int) -> str:
        task, stage = self._task(number), self._stage(number)
        phase = PHASES[FORWARD if _split(number)[1] < self.layout.stages else BACKWARD]
        return f"{phase} of task {task} on node {self.layout.node[task]} stage {stage}"

    def _say_missing(self, number: int) -> str:
        """Name the operation that is to release the task of another one, and is not planned."""
        before = self.before[self._task(number)]
        return f"{PHASES[self.given.event]} of task {before} on stage 0, which is not planned"


def _split(number: int) -> tuple[int, int]:
    """Return item and place of the operation of a number."""
    return number >> PLACE_SHIFT, number & PLACE_MASK


def _joined(item: int, place: int) -> int:
    return (item << PLACE_SHIFT) | place
