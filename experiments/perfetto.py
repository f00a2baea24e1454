"""Schedules as traces for ui.perfetto.dev, in the Trace Event Format."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import numpy as np

from experiments.perfetto_tracks import Shown, lanes, nanoseconds, served_counters, shown
from instances.files import write_json
from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES, Schedule

LOG = logging.getLogger("lemix_opt")
MOST_OPERATIONS = 100_000
"""Operations in a trace unless more are asked for: about what the viewer still scrolls through."""


def perfetto_trace(
    instance: Instance, schedule: Schedule, truth: str, most: int | None = None
) -> dict[str, Any]:
    """Return a trace: a process per node, tracks per stage, memory and batches as counters.

    Operations that share a GPU are on tracks of their own, so that no two on a track overlap.
    Iterations of served runs are on the tracks of their stages; the requests in them and the
    tokens whose keys and values a node holds are counters. Times are whole nanoseconds.

    Parameters
    ----------
    instance : Instance
        Tasks, and the memory they hold by the predicted costs.
    schedule : Schedule
        What is shown.
    truth : str
        Where its times come from, kept with the trace.
    most : int, optional
        Shows only so many operations and iterations on stages, those that start first, and others
        that start together with the last of them; the trace then says where it ends. All when
        omitted.
    """
    rows = shown(schedule)
    kept, until_s = _first(rows, most)
    stages = instance.cluster.stages
    lane, start_ns, end_ns = lanes(rows.take(kept), stages)
    events = _tracks(instance, rows.take(kept), lane)
    timed: list[dict[str, Any]] = []
    changes: list[tuple[int, int, float, int, float]] = []
    slices = _slices(instance, schedule, rows.take(kept), changes, until_s)
    times = zip(lane.tolist(), start_ns.tolist(), end_ns.tolist(), strict=True)
    for made, (track, start, end) in zip(slices, times, strict=True):
        # Lanes behind the first of every stage follow all stages.
        made |= {"ts": start / 1000, "dur": (end - start) / 1000}
        made["tid"] += track * stages
        timed.append(made)
    timed += _counters(instance, changes)
    timed += served_counters(instance, schedule, until_s)
    timed += [
        {
            "name": f"out of memory: task {task}",
            "ph": "i",
            "s": "t",
            "ts": _us(at),
            "pid": node,
            "tid": stage,
        }
        for task, stage, node, at in schedule.out_of_memory
        if at <= until_s
    ]
    said = {"truth": truth, "made by": "lemix-opt"}
    if kept.size < rows.rows:
        served = " and iterations on stages" if schedule.generated is not None else ""
        said["cut"] = (
            f"the first {kept.size} of {rows.rows} operations{served}, "
            f"which start by {until_s:.3f} s"
        )
        timed.append(
            {
                "name": f"cut here: {said['cut']}",
                "ph": "i",
                "s": "g",
                "ts": _us(until_s),
                "pid": 0,
                "tid": 0,
            }
        )
    timed.sort(key=lambda e: (e["ts"], e["pid"], e.get("tid", -1), e["name"]))
    return {"traceEvents": events + timed, "displayTimeUnit": "ms", "otherData": said}


def _us(at: float) -> float:
    return float(nanoseconds(at)) / 1000


def _first(rows: Shown, most: int | None) -> tuple[IntArray, float]:
    """Return which rows start first, and the start of the last of them."""
    if most is None or rows.rows <= most:
        return np.arange(rows.rows), math.inf
    until_s = float(np.partition(rows.start_s, most - 1)[most - 1])
    return np.flatnonzero(rows.start_s <= until_s), until_s


def _tracks(instance: Instance, rows: Shown, lane: IntArray) -> list[dict[str, Any]]:
    """Name every process and track; stages with several lanes keep them together."""
    stages = instance.cluster.stages
    most = np.zeros((instance.cluster.nodes, stages), dtype=np.int64)
    np.maximum.at(most, (rows.node, rows.stage), lane)
    events = []
    for node, of_node in enumerate(most.tolist()):
        events.append(_name("process_name", node, 0, name=f"node {node}"))
        events += [_name("thread_name", node, s, name=f"stage {s}") for s in range(stages)]
        if not any(of_node):
            continue
        for stage, last in enumerate(of_node):
            for number in range(last + 1):
                track = stage + number * stages
                if number:
                    name = f"stage {stage}, lane {number + 1}"
                    events.append(_name("thread_name", node, track, name=name))
                order = stage * (max(of_node) + 1) + number
                events.append(_name("thread_sort_index", node, track, sort_index=order))
    return events


def _slices(
    instance: Instance,
    schedule: Schedule,
    rows: Shown,
    changes: list[tuple[int, int, float, int, float]],
    until_s: float,
) -> list[dict[str, Any]]:
    """Return a slice per row, without its times; `changes` takes those of memory."""
    made: list[dict[str, Any]] = []
    work, operations = instance.workload, schedule.operations
    training = work.is_training.tolist()
    for row, iteration, node, stage, start, end in rows.tuples():
        if iteration >= 0:
            made.append(_iteration(schedule, iteration, node, stage))
            continue
        task, phase = int(operations.task[row]), int(operations.phase[row])
        trains = training[task]
        parts = instance.micro_batches if trains else 1
        several = parts > 1 and phase in (FORWARD, BACKWARD)
        numbered = f".{operations.micro_batch[row]}" if several else ""
        made.append(
            {
                "name": f"{PHASES[phase][0].upper()}{task}{numbered}",
                "cat": f"{'training' if trains else 'inference'} {PHASES[phase]}",
                "ph": "X",
                "pid": node,
                "tid": stage,
                "args": {
                    "task": task,
                    "release_s": float(work.release_s[task]),
                    "prompt_tokens": int(work.prompt_tokens[task]),
                },
            }
        )
        kind = instance.cluster.node_class[node]
        held = float(instance.costs.held_bytes[kind, task, stage]) / parts
        if phase == FORWARD:
            changes.append((node, stage, start, 1, held))
        if phase == (BACKWARD if trains else FORWARD) and end <= until_s:
            changes.append((node, stage, end, 0, -held))
    return made


def _iteration(schedule: Schedule, row: int, node: int, stage: int) -> dict[str, Any]:
    """Return the slice of an iteration on one stage."""
    assert schedule.generated is not None
    rows = schedule.generated.iterations
    names = ("prefills", "prefill_tokens", "decodes", "context_tokens", "kv_tokens")
    said = {"iteration": row, **{name: int(getattr(rows, name)[row]) for name in names}}
    batch = (("P", said["prefills"]), ("D", said["decodes"]))
    return {
        "name": " ".join(f"{letter}×{count}" for letter, count in batch if count) or "empty",
        "cat": "iteration",
        "ph": "X",
        "pid": node,
        "tid": stage,
        "args": said | {"batch": said["prefills"] + said["decodes"]},
    }


def _name(kind: str, pid: int, tid: int, **said: str | int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": said}


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
                "ts": _us(at),
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
