"""What one node is predicted to do: forward ends per stage and the backwards still owed."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from lemix_opt.schedule import BACKWARD, FORWARD

NOISE_S = 1e-9


@dataclass(slots=True)
class Prediction:
    """Predicted run of one task on one node; lists run over stages, times in seconds.

    Parameters
    ----------
    forward_end : list of float
        Predicted end of the forward on every stage.
    backward_begin, backward_end : list of float
        Predicted backward of every stage; empty for inference.
    idleness_s : float
        Seconds stages wait for this task, after their previous forward and beside backwards,
        summed over stages (LeMix's II).
    """

    forward_end: list[float]
    backward_begin: list[float]
    backward_end: list[float]
    idleness_s: float

    @property
    def end_s(self) -> float:
        """End of the last forward."""
        return self.forward_end[-1]


class NodeTimeline:
    """Open tasks of a node as they were predicted, shifted by how far reality has drifted.

    A forward follows the previous forward of its stage; one that would reach into an earlier
    task's backward there waits until that has left the stage (the rule ``gpu_order="reserve"``).
    Backwards follow each other in order of placement.

    Parameters
    ----------
    stages : int
        Number of stages S.
    """

    __slots__ = ("_drift", "_forward_end", "last_release_s", "open", "owed", "stages")

    def __init__(self, stages: int) -> None:
        self.stages = stages
        self.open: dict[int, Prediction] = {}
        self.owed: dict[int, Prediction] = {}
        self.last_release_s: float | None = None
        self._forward_end: list[float | None] = [None] * stages
        self._drift = [0.0] * stages

    def predict(
        self,
        now_s: float,
        forward_s: list[float],
        backward_s: list[float] | None,
        hop_s: list[float],
    ) -> Prediction:
        """Predict a task that is placed now; nothing is changed."""
        end = [0.0] * self.stages
        idleness, ready = 0.0, now_s
        for s in range(self.stages):
            last = self._forward_end[s]
            free = now_s if last is None else last
            start = max(free, ready)
            stop = start + forward_s[s]
            between = 0.0
            drift = self._drift[s]
            for earlier in self.owed.values():
                if stop <= earlier.backward_begin[s] + drift + NOISE_S:
                    break
                busy_until = earlier.backward_end[s] + drift
                if busy_until > start:
                    between += busy_until - max(earlier.backward_begin[s] + drift, free)
                    start = busy_until
                    stop = start + forward_s[s]
            end[s] = stop
            idleness += max(start - free - max(between, 0.0), 0.0)
            ready = stop + (hop_s[s] if s + 1 < self.stages else 0.0)
        if backward_s is None:
            return Prediction(end, [], [], idleness)
        first, final = [0.0] * self.stages, [0.0] * self.stages
        at = end[-1]
        before = next(reversed(self.owed.values()), None)
        for s in range(self.stages - 1, -1, -1):
            if before is not None:
                at = max(at, before.backward_end[s] + self._drift[s])
            first[s] = at
            at = final[s] = at + backward_s[s]
            at += hop_s[s - 1] if s else 0.0
        return Prediction(end, first, final, idleness)

    def idle_from(self) -> float:
        """Return when nothing is left to do, as predicted."""
        moments = [end for end in self._forward_end if end is not None]
        for owed in list(self.owed.values())[-1:]:
            moments += [owed.backward_end[s] + self._drift[s] for s in range(self.stages)]
        return max(moments, default=-inf)

    def next_response(self, seconds: float, now_s: float, behind: Prediction | None) -> float:
        """Predict the response of a request that takes `seconds` a stage, behind a new task."""
        at = now_s
        for s in range(self.stages):
            before = self._forward_end[s] if behind is None else behind.forward_end[s]
            at = max(at, -inf if before is None else before)
            drift = self._drift[s]
            windows = [
                (owed.backward_begin[s] + drift, owed.backward_end[s] + drift)
                for owed in self.owed.values()
            ]
            if behind is not None and behind.backward_end:
                windows.append((behind.backward_begin[s], behind.backward_end[s]))
            for begin, end in windows:
                if at + seconds <= begin + NOISE_S:
                    break
                at = max(at, end)
            at += seconds
        return at - now_s

    def place(self, task: int, release_s: float, prediction: Prediction) -> None:
        """Take the task into the books."""
        self.open[task] = prediction
        if prediction.backward_end:
            self.owed[task] = prediction
        self.last_release_s = release_s
        self._forward_end = list(prediction.forward_end)
        for s in range(self.stages):
            self._shift(prediction, s, -self._drift[s])

    def _shift(self, prediction: Prediction, stage: int, by_s: float) -> None:
        # Books hold times without the drift, which is added when they are read.
        prediction.forward_end[stage] += by_s
        if prediction.backward_end:
            prediction.backward_begin[stage] += by_s
            prediction.backward_end[stage] += by_s

    def ended(self, task: int, phase: int, stage: int, time_s: float) -> None:
        """Correct the books by an operation that has ended."""
        book = self.open.get(task)
        if book is None or phase not in (FORWARD, BACKWARD):
            return
        expected = (book.forward_end if phase == FORWARD else book.backward_end)[stage]
        drift = time_s - expected
        last = self._forward_end[stage]
        if last is not None:
            self._forward_end[stage] = max(last + drift - self._drift[stage], time_s)
        self._drift[stage] = drift
        done = stage == self.stages - 1 and phase == FORWARD and not book.backward_end
        if done or (phase == BACKWARD and stage == 0):
            self.dropped(task)

    def dropped(self, task: int) -> None:
        """Forget a task that will not run any more."""
        self.open.pop(task, None)
        self.owed.pop(task, None)
