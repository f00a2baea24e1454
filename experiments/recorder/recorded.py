"""From what was executed to a trace that replays to the same times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.recorder.pipeline import Ran
from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import LemixError
from lemix_opt.instance import Instance
from lemix_opt.recording import Provenance, Recording, table
from lemix_opt.schedule import BACKWARD, FORWARD, PHASES, UPDATE, Operations, Schedule
from lemix_opt.trace import Trace
from lemix_opt.workload import Workload

DISPATCH = "dispatch"
"""Phase of the spans between the moment an operation could have begun and the one it began at."""
_GRID = 2**30
"""Parts of a second that times are rounded to: sums and differences of such times are exact."""


def on_grid(nanoseconds: int) -> float:
    """Return seconds, rounded to 2^-30 s (0.93 ns)."""
    return ((nanoseconds * _GRID + 500_000_000) // 1_000_000_000) / _GRID


def as_trace(
    ran: Sequence[Ran],
    zero_ns: int,
    put_ns: Sequence[int],
    workload: Workload,
    node: IntArray,
    memory_bytes: FloatArray,
    resident_bytes: FloatArray,
    held_bytes: FloatArray,
    peak_bytes: Mapping[tuple[int, int, int], int],
    release_mode: str,
    said: Provenance,
) -> Trace:
    """Build the trace of a run.

    An operation of the schedule begins when nothing stood in its way any more: its task had
    arrived or come from the stage before, and the device was free. Its cost is the time from then
    on, so that dispatch is part of it; the spans hold dispatch and work apart. A backward's cost
    holds its update. With these costs every operation is at its earliest, and a replay in any
    timing gives the recorded times.

    Parameters
    ----------
    ran : sequence of Ran
        What was executed.
    zero_ns : int
        Moment that seconds count from.
    put_ns : sequence of int, length T
        When every task was put into the queue of its node.
    workload : Workload
        Tasks as they were planned.
    node : ndarray of int, shape (T,)
        Where they ran.
    memory_bytes, resident_bytes, held_bytes : ndarray, shapes (N, S), (1, S), (1, T, S)
        As in cluster and costs.
    peak_bytes : mapping of (task, phase, stage) to int
        Most bytes an operation took beyond what was there when it began.
    release_mode : {"async", "sync"}
        Closed loop of the training tasks.
    said : Provenance
        Where the times come from; what is odd about them is added.

    Raises
    ------
    LemixError
        If an operation is missing, or took no time.
    """
    rows = sorted(ran, key=lambda r: (r.start_ns, r.end_ns))
    tasks, stages = workload.tasks, memory_bytes.shape[1]
    training = workload.is_training.tolist()
    begun = {(r.task, r.phase, r.stage): on_grid(r.start_ns - zero_ns) for r in rows}
    ended = {(r.task, r.phase, r.stage): on_grid(r.end_ns - zero_ns) for r in rows}
    wanted = sum(stages * (3 if trains else 1) for trains in training)
    if not len(begun) == len(rows) == wanted:
        raise LemixError(f"{len(begun)} operations", where="recording", expected=f"{wanted}")

    def end_of(task: int, phase: int, stage: int) -> float:
        return ended[task, UPDATE if phase == BACKWARD else phase, stage]

    own_s, release_s = _releases(
        workload, [on_grid(p - zero_ns) for p in put_ns], end_of, release_mode
    )
    free: dict[tuple[int, int], float] = {}
    operations: list[tuple[int, int, int, int, int, float, float]] = []
    spans: list[tuple[int, str, int, int, float, float, float]] = []
    cost = np.zeros((2, 1, tasks, stages))
    for r in rows:
        i, s, place = r.task, r.stage, (r.node, r.stage)
        key = (i, r.phase, s)
        size = float(peak_bytes.get(key, np.nan))
        spans.append((i, PHASES[r.phase], r.node, s, begun[key], ended[key], size))
        if r.phase == UPDATE:
            continue
        if r.phase == FORWARD:
            ready = end_of(i, FORWARD, s - 1) if s else release_s[i]
        else:
            ready = end_of(i, BACKWARD, s + 1) if s + 1 < stages else end_of(i, FORWARD, s)
        start, end = max(ready, free.get(place, 0.0)), end_of(i, r.phase, s)
        free[place] = end
        if not start < end:
            raise LemixError(f"operation {key} took {end - start:g} s", where="recording")
        if begun[key] > start:
            spans.append((i, DISPATCH, r.node, s, start, begun[key], np.nan))
        operations.append((i, r.phase, s, 0, r.node, start, end))
        cost[0 if r.phase == FORWARD else 1, 0, i, s] = end - start
    costs = Costs(cost[0], cost[1], held_bytes, resident_bytes)
    work = Workload(
        workload.kind,
        own_s,
        workload.batch,
        workload.prompt_tokens,
        workload.output_tokens,
        workload.weight,
        workload.slo_s,
    )
    instance = Instance(
        Cluster(memory_bytes.shape[0], stages, memory_bytes),
        work,
        costs,
        release_mode=release_mode,
        gpu_order="backward_first",
    )
    columns: Any = map(list, zip(*operations, strict=True))
    schedule = Schedule(node, Operations(*columns), np.zeros(tasks, dtype=np.int64), release_s)
    names = ("task", "phase", "node", "stage", "start_s", "end_s", "bytes")
    found: dict[str, Any] = dict(zip(names, map(list, zip(*spans, strict=True)), strict=True))
    provenance = Provenance(
        said.truth,
        said.source,
        said.clock,
        said.tools,
        said.inputs,
        (*said.warnings, *_odd(spans, workload, own_s)),
    )
    recording = Recording(provenance, table("spans", found))
    return Trace(instance, costs, said.truth, said.source, schedule, recording)


def _releases(
    workload: Workload, put_s: list[float], end_of: Any, release_mode: str
) -> tuple[FloatArray, FloatArray]:
    """Return own and effective releases; a task's own one is when it came, not when it was due."""
    own = np.array(put_s)
    release = own.copy()
    event = FORWARD if release_mode == "async" else BACKWARD
    ahead, latest = -1, 0.0
    for task in np.flatnonzero(workload.is_training).tolist():
        closed = end_of(ahead, event, 0) if ahead >= 0 else -np.inf
        # What the closed loop released had been due before; that moment is not in the records.
        own[task] = latest if closed > workload.release_s[task] else put_s[task]
        own[task] = latest = max(own[task], latest)
        release[task] = max(own[task], closed)
        ahead = task
    return own, release


def _odd(
    spans: list[tuple[int, str, int, int, float, float, float]],
    workload: Workload,
    own_s: FloatArray,
) -> list[str]:
    work = sum(end - start for _, phase, _, _, start, end, _ in spans if phase != DISPATCH)
    lost = sum(end - start for _, phase, _, _, start, end, _ in spans if phase == DISPATCH)
    serves = workload.is_inference
    late = float(np.max((own_s - workload.release_s)[serves], initial=0.0))
    return [
        f"dispatch between operations: {lost:.4g} s beside {work:.4g} s of work",
        f"requests came up to {late:.2g} s after the moment drawn for them; own releases are "
        "when they came",
    ]
