"""Schedules as traces for ui.perfetto.dev, in the Trace Event Format."""

from __future__ import annotations

import os
from typing import Any

from instances.files import write_json
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES, Schedule

MICROSECONDS = 1e6


def perfetto_trace(instance: Instance, schedule: Schedule, truth: str) -> dict[str, Any]:
    """Return a trace: a process per node, a thread per stage, memory as counters.

    Parameters
    ----------
    instance : Instance
        Tasks, and the memory they hold by the predicted costs.
    schedule : Schedule
        What is shown.
    truth : str
        Where its times come from, kept with the trace.
    """
    rows = schedule.operations
    events: list[dict[str, Any]] = []
    for node in range(instance.cluster.nodes):
        events.append(_name("process_name", node, 0, f"node {node}"))
        events += [
            _name("thread_name", node, s, f"stage {s}") for s in range(instance.cluster.stages)
        ]
    timed: list[dict[str, Any]] = []
    table = zip(
        *(c.tolist() for c in (rows.task, rows.phase, rows.stage, rows.micro_batch, rows.node)),
        rows.start_s.tolist(),
        rows.end_s.tolist(),
        strict=True,
    )
    changes: list[tuple[int, int, float, int, float]] = []
    for task, phase, stage, part, node, start, end in table:
        trains = bool(instance.workload.is_training[task])
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
        if phase == (BACKWARD if trains else FORWARD):
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
    ]
    timed.sort(key=lambda e: (e["ts"], e["pid"], e.get("tid", -1), e["name"]))
    return {
        "traceEvents": events + timed,
        "displayTimeUnit": "ms",
        "otherData": {"truth": truth, "made by": "lemix-opt"},
    }


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
    instance: Instance, schedule: Schedule, path: str | os.PathLike[str], truth: str
) -> None:
    """Write a trace as JSON, compressed when `path` ends in ``.gz``."""
    write_json(perfetto_trace(instance, schedule, truth), path)
