"""What became of the time of training steps: work by phase, communication and idleness."""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.table import Table

STEP, FORWARD, BACKWARD, UPDATE = "step", "forward", "backward", "update"
COMMUNICATION, OTHER = "communication", "other"


def steps_of(spans: Table) -> list[dict[str, float]]:
    """Add up the times of every rank and step.

    Parameters
    ----------
    spans : Table
        Spans of a recording whose tasks are steps.

    Returns
    -------
    list of dict
        By rank and step: ``step_s``, the processor's span; ``gpu_s``, from the beginning to the
        end of the work launched in the step on one device; seconds of that work by phase, work
        that runs at the same time counted once; ``communication_alone_s``, with nothing else
        running; and ``idle_s``, in which the device did nothing at all, be it of this step or not.
    """
    phase, task = spans["phase"], spans["task"]
    works = phase != STEP
    processor: dict[tuple[int, int], float] = {}
    for row in np.flatnonzero(~works).tolist():
        key = int(spans["node"][row]), int(task[row])
        length = float(spans["end_s"][row] - spans["start_s"][row])
        processor[key] = processor.get(key, 0.0) + length
    rows = []
    for here in _groups(spans, ("node", "device"), np.flatnonzero(works)):
        node, device = int(spans["node"][here[0]]), int(spans["device"][here[0]])
        busy = _Cover(spans, here)
        computing = _Cover(spans, here[phase[here] != COMMUNICATION])
        for mine in _groups(spans, ("task",), here[task[here] >= 0]):
            start, end = float(spans["start_s"][mine].min()), float(spans["end_s"][mine].max())
            step, kinds = int(task[mine[0]]), phase[mine]
            taken = {
                f"{kind}_s": _Cover(spans, mine[kinds == kind]).between(start, end)
                for kind in (FORWARD, BACKWARD, UPDATE, COMMUNICATION, OTHER)
            }
            covered = busy.between(start, end)
            rows.append(
                {
                    "rank": node,
                    "step": step,
                    "device": device,
                    "step_s": processor.get((node, step), float("nan")),
                    "gpu_s": end - start,
                    **taken,
                    # Sums of many lengths differ in their last bits.
                    "communication_alone_s": max(covered - computing.between(start, end), 0.0),
                    "idle_s": max(end - start - covered, 0.0),
                }
            )
    return sorted(rows, key=lambda row: (row["rank"], row["step"], row["device"]))


def _groups(spans: Table, by: tuple[str, ...], rows: IntArray) -> list[IntArray]:
    """Split rows by the values of some columns."""
    keys = np.stack([spans[name][rows] for name in by])
    order = np.lexsort(keys)
    changes = np.flatnonzero((np.diff(keys[:, order]) != 0).any(axis=0)) + 1
    return np.split(rows[order], changes) if rows.size else []


class _Cover:
    """The union of some spans, to ask how much of a stretch of time it takes."""

    def __init__(self, spans: Table, rows: IntArray) -> None:
        found = np.column_stack([spans["start_s"][rows], spans["end_s"][rows]])
        found = merge(found[np.argsort(found[:, 0], kind="stable")])
        self.start, self.end = found[:, 0], found[:, 1]
        self.before = np.concatenate([[0.0], np.cumsum(self.end - self.start)])

    def between(self, start: float, end: float) -> float:
        """Seconds from start to end that are covered."""
        return self._until(end) - self._until(start)

    def _until(self, at: float) -> float:
        last = int(np.searchsorted(self.start, at, side="right")) - 1
        if last < 0:
            return 0.0
        return float(self.before[last] + min(at, self.end[last]) - self.start[last])


def merge(spans: FloatArray) -> FloatArray:
    """Return the union of intervals as disjoint ones.

    Parameters
    ----------
    spans : ndarray, shape (R, 2)
        Starts and ends, sorted by start.
    """
    if not len(spans):
        return spans
    ends = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate([[True], spans[1:, 0] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.column_stack([spans[first, 0], ends[last]])
