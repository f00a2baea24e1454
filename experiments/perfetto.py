"""Schedules as traces for ui.perfetto.dev, in the Trace Event Format."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import numpy as np

from instances.files import write_json
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES, Operations, Schedule

LOG = logging.getLogger("lemix_opt")
MICROSECONDS = 1e6
MOST_OPERATIONS = 100_000
"""Operations in a trace unless more are asked for: about what the viewer still scrolls through."""


def perfetto_trace(
    instance: Instance, schedule: Schedule, truth: str, most: int | None = None
) -> dict[str, Any]:
    """Return a trace: a process per node, a thread per stage, memory as counters.

    Parameters
    ----------
    instance : Instance
        Tasks, and the memory they hold by the predicted costs.
    schedule : Schedule
        What is shown.
    truth : str
        Where its times come from, kept with the trace.
    most : int, optional
        Shows only so many operations, those that start first, and others that start together with
        the last of them; the trace then says where it ends. All when omitted.
    """
    rows, until_s = _first(schedule.operations, most)
    events: list[dict[str, Any]] = []
    for node in range(instance.cluster.nodes):
        events.append(_name("process_name", node, 0, f"node {node}"))
        events += [
            _name("thread_name", node, s, f"stage {s}") for s in range(instance.cluster.stages)
        ]
    timed: list[dict[str, Any]] = []
    training = instance.workload.is_training.tolist()
    table = zip(
        *(c.tolist() for c in (rows.task, rows.phase, rows.stage, rows.micro_batch, rows.node)),
        rows.start_s.tolist(),
        rows.end_s.tolist(),
        strict=True,
    )
    changes: list[tuple[int, int, float, int, float]] = []
    for task, phase, stage, part, node, start, end in table:
        trains = training[task]
        parts = instance.micro_batches if trains else 1
        numbered = f".{part}" if parts > 1 and phase in (FORWARD, BACKWARD) else ""
        timed.append(
            {
                "name": f"{PHASES[phase][0].upper()}{task}{numbered}",
                "cat": f"{'training' if trains else 'inference'} {PHASES[phase]}",
                "ph": "X",
                "ts": start * MICROSECONDS,
                "dur": (end - start) * MICROSECONDS,
                "pid": node,
                "tid": stage,
                "args": {
                    "task": task,
                    "release_s": float(instance.workload.release_s[task]),
                    "prompt_tokens": int(instance.workload.prompt_tokens[task]),
                },
            }
        )
        kind = instance.cluster.node_class[node]
        held = float(instance.costs.held_bytes[kind, task, stage]) / parts
        if phase == FORWARD:
            changes.append((node, stage, start, 1, held))
        if phase == (BACKWARD if trains else FORWARD) and end <= until_s:
            changes.append((node, stage, end, 0, -held))
    timed += _counters(instance, changes)
    timed += [
        {
            "name": f"out of memory: task {task}",
            "ph": "i",
            "s": "t",
            "ts": at * MICROSECONDS,
            "pid": node,
            "tid": stage,
        }
        for task, stage, node, at in schedule.out_of_memory
        if at <= until_s
    ]
    said = {"truth": truth, "made by": "lemix-opt"}
    if rows.rows < schedule.operations.rows:
        said["cut"] = (
            f"the first {rows.rows} of {schedule.operations.rows} operations, "
            f"which start by {until_s:.3f} s"
        )
        timed.append(
            {
                "name": f"cut here: {said['cut']}",
                "ph": "i",
                "s": "g",
                "ts": until_s * MICROSECONDS,
                "pid": 0,
                "tid": 0,
            }
        )
    timed.sort(key=lambda e: (e["ts"], e["pid"], e.get("tid", -1), e["name"]))
    return {"traceEvents": events + timed, "displayTimeUnit": "ms", "otherData": said}


def _first(rows: Operations, most: int | None) -> tuple[Operations, float]:
    """Return the rows that start first, and the start of the last of them."""
    if most is None or rows.rows <= most:
        return rows, math.inf
    until_s = float(np.partition(rows.start_s, most - 1)[most - 1])
    return rows.take(np.flatnonzero(rows.start_s <= until_s)), until_s


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _counters(
    instance: Instance, changes: list[tuple[int, int, float, int, float]]
) -> list[dict[str, Any]]:
    """One sample per moment at which a GPU's memory changes, after all changes of that moment."""
    found: list[dict[str, Any]] = []
    used = instance.resident_bytes.copy()
    changes.sort()
    for i, (node, stage, at, _, by) in enumerate(changes):
        used[node, stage] += by
        if i + 1 < len(changes) and changes[i + 1][:3] == (node, stage, at):
            continue
        found.append(
            {
                "name": f"stage {stage} memory GiB",
                "ph": "C",
                "ts": at * MICROSECONDS,
                "pid": node,
                "args": {"in use": round(float(used[node, stage]) / 2**30, 6)},
            }
        )
    return found


def write_perfetto(
    instance: Instance,
    schedule: Schedule,
    path: str | os.PathLike[str],
    truth: str,
    most: int | None = MOST_OPERATIONS,
) -> None:
    """Write a trace as JSON, compressed when `path` ends in ``.gz``; a warning says if it is cut.

    See `perfetto_trace` for the parameters; None writes all operations.
    """
    made = perfetto_trace(instance, schedule, truth, most)
    if "cut" in made["otherData"]:
        LOG.warning("%s: %s", path, made["otherData"]["cut"])
    write_json(made, path)
