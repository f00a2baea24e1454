"""What became of the time of training steps: work by phase, communication and idleness."""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray
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
    rows = []
    work = spans["phase"] != STEP
    keys = np.column_stack([spans["node"], spans["task"], spans["device"]])
    for node, task, device in np.unique(keys[work & (spans["task"] >= 0)], axis=0).tolist():
        here = work & (spans["node"] == node) & (spans["device"] == device)
        mine = here & (spans["task"] == task)
        start, end = spans["start_s"][mine].min(), spans["end_s"][mine].max()
        on_cpu = (spans["phase"] == STEP) & (spans["node"] == node) & (spans["task"] == task)
        phases = (FORWARD, BACKWARD, UPDATE, COMMUNICATION, OTHER)
        taken = {p: _covered(spans, mine & (spans["phase"] == p), start, end) for p in phases}
        computing = _covered(spans, here & (spans["phase"] != COMMUNICATION), start, end)
        busy = _covered(spans, here, start, end)
        rows.append(
            {
                "rank": node,
                "step": task,
                "device": device,
                "step_s": float(
                    (spans["end_s"][on_cpu] - spans["start_s"][on_cpu]).sum()
                    if on_cpu.any()
                    else np.nan
                ),
                "gpu_s": float(end - start),
                **{f"{phase}_s": seconds for phase, seconds in taken.items()},
                "communication_alone_s": busy - computing,
                "idle_s": float(end - start) - busy,
            }
        )
    return rows


def _covered(spans: Table, rows: BoolArray, start: float, end: float) -> float:
    """Seconds between start and end that some of the spans cover."""
    found = np.column_stack([spans["start_s"][rows], spans["end_s"][rows]])
    found = merge(found[np.argsort(found[:, 0], kind="stable")]).clip(start, end)
    return float((found[:, 1] - found[:, 0]).sum())


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
