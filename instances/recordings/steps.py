"""What became of the time of training steps: work by phase, communication and idleness."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.recording import UNKNOWN
from lemix_opt.table import Table

STEP, FORWARD, BACKWARD, UPDATE = "step", "forward", "backward", "update"
COMMUNICATION, OTHER = "communication", "other"
KINDS = (FORWARD, BACKWARD, UPDATE, COMMUNICATION, OTHER)


def steps_of(spans: Table) -> list[dict[str, float]]:
    """Add up the times of every rank, step and device, so that no moment counts for two steps.

    Parameters
    ----------
    spans : Table
        Spans of a recording whose tasks are steps.

    Returns
    -------
    list of dict
        By rank, step and device; sums over the steps of a device are times of that device:

        - ``step_s``, seconds that the processor was in the step;
        - ``gpu_s`` (``cpu_s`` of device −1, the processor): of the stretch from the first to the
          last work of the step, the moments that are the step's. Where several steps may claim a
          moment, it is the one's that computes, else the one's that communicates, of several such
          the earliest's;
        - by phase, seconds in which work of the step and phase ran, of whatever length and number,
          less those in which the same phase of an earlier step ran;
        - ``communication_alone_s``: the part of ``communication_s`` in which nothing on the device
          computed;
        - ``idle_s``: the part of ``gpu_s`` in which the device did nothing, be it of this step or
          not.
    """
    phase, task = spans["phase"], spans["task"]
    works = phase != STEP
    processor = _processor(spans, np.flatnonzero(~works))
    rows = []
    for here in _groups(spans, ("node", "device"), np.flatnonzero(works)):
        node, device = int(spans["node"][here[0]]), int(spans["device"][here[0]])
        mine = here[task[here] >= 0]
        steps = np.unique(task[mine])
        cells = _Cells(spans, here)
        computing = phase[mine] != COMMUNICATION
        window = cells.windows(mine, np.searchsorted(steps, task[mine]), len(steps))
        owner = cells.owners([mine[computing], mine[~computing]], steps, window)
        busy = cells.covered(here)
        hidden = cells.covered(here[phase[here] != COMMUNICATION])
        taken = {kind: cells.owners([mine[phase[mine] == kind]], steps) for kind in KINDS}
        total = cells.seconds(owner, len(steps))
        idle = cells.seconds(np.where(busy, -1, owner), len(steps))
        by_kind = {kind: cells.seconds(found, len(steps)) for kind, found in taken.items()}
        alone = cells.seconds(np.where(hidden, -1, taken[COMMUNICATION]), len(steps))
        for row, step in enumerate(steps.tolist()):
            rows.append(
                {
                    "rank": node,
                    "step": step,
                    "device": device,
                    "step_s": processor.get((node, step), float("nan")),
                    "cpu_s" if device == UNKNOWN else "gpu_s": total[row],
                    **{f"{kind}_s": found[row] for kind, found in by_kind.items()},
                    "communication_alone_s": alone[row],
                    "idle_s": idle[row],
                }
            )
    return sorted(rows, key=lambda row: (row["rank"], row["step"], row["device"]))


def devices_of(spans: Table) -> list[dict[str, float]]:
    """Return, by rank and device, seconds from its first to its last work, busy and idle ones."""
    rows: list[dict[str, float]] = []
    for here in _groups(spans, ("node", "device"), np.flatnonzero(spans["phase"] != STEP)):
        cells = _Cells(spans, here)
        busy = float(cells.lengths[cells.covered(here)].sum())
        idle = float(cells.lengths[~cells.covered(here)].sum())
        node, device = int(spans["node"][here[0]]), int(spans["device"][here[0]])
        length = float(cells.lengths.sum())
        rows.append(
            {"rank": node, "device": device, "length_s": length, "busy_s": busy, "idle_s": idle}
        )
    return rows


def _processor(spans: Table, rows: IntArray) -> dict[tuple[int, int], float]:
    """Seconds of the processor by rank and step; what overlaps counts once."""
    found = {}
    for mine in _groups(spans, ("node", "task"), rows):
        edges = np.column_stack([spans["start_s"][mine], spans["end_s"][mine]])
        merged = merge(edges[np.argsort(edges[:, 0], kind="stable")])
        key = int(spans["node"][mine[0]]), int(spans["task"][mine[0]])
        found[key] = float((merged[:, 1] - merged[:, 0]).sum())
    return found


def _groups(spans: Table, by: tuple[str, ...], rows: IntArray) -> list[IntArray]:
    """Split rows by the values of some columns."""
    keys = np.stack([spans[name][rows] for name in by])
    order = np.lexsort(keys)
    changes = np.flatnonzero((np.diff(keys[:, order]) != 0).any(axis=0)) + 1
    return np.split(rows[order], changes) if rows.size else []


class _Cells:
    """The time of one device, cut wherever some work begins or ends."""

    def __init__(self, spans: Table, rows: IntArray) -> None:
        start, end = spans["start_s"], spans["end_s"]
        self.task = spans["task"]
        edges = np.unique(np.concatenate([start[rows], end[rows]]))
        self.lengths = np.diff(edges)
        self.first = np.searchsorted(edges, start)
        self.behind = np.searchsorted(edges, end)

    def covered(self, rows: IntArray) -> BoolArray:
        """Whether some of the spans run, by cell."""
        change = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        np.add.at(change, self.first[rows], 1)
        np.add.at(change, self.behind[rows], -1)
        return np.cumsum(change)[:-1] > 0

    def windows(self, rows: IntArray, step: IntArray, steps: int) -> list[tuple[int, int, int]]:
        """First cell, cell behind the last, and number of every step."""
        first = np.full(steps, len(self.lengths), dtype=np.int64)
        behind = np.zeros(steps, dtype=np.int64)
        np.minimum.at(first, step, self.first[rows])
        np.maximum.at(behind, step, self.behind[rows])
        return list(zip(first.tolist(), behind.tolist(), range(steps), strict=True))

    def owners(
        self,
        claims: Iterable[IntArray],
        steps: IntArray,
        last: list[tuple[int, int, int]] | None = None,
    ) -> IntArray:
        """Give every cell to the earliest step with a span over it, claim by claim; −1: to none."""
        cells = len(self.lengths)
        owner = [-1] * cells
        free = list(range(cells + 1))
        for rows in claims:
            step = np.searchsorted(steps, self.task[rows])
            order = np.argsort(step, kind="stable")
            spans = zip(
                self.first[rows[order]].tolist(),
                self.behind[rows[order]].tolist(),
                step[order].tolist(),
                strict=True,
            )
            _take(spans, owner, free)
        _take(last or [], owner, free)
        return np.array(owner, dtype=np.int64)

    def seconds(self, owner: IntArray, steps: int) -> list[float]:
        """Add up the cells of every step."""
        return [float(s) for s in np.bincount(owner + 1, self.lengths, steps + 1)[1:]]


def _take(spans: Iterable[tuple[int, int, int]], owner: list[int], free: list[int]) -> None:
    """Give cells that are free yet to the first span over them; `free` leads to the next one."""
    for first, behind, step in spans:
        at = first
        while True:
            root = at
            while free[root] != root:
                root = free[root]
            # Shortening the way keeps many overlapping spans linear.
            while free[at] != root:
                free[at], at = root, free[at]
            if root >= behind:
                break
            owner[root], free[root] = step, root + 1
            at = root


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
