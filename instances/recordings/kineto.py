"""Traces of the PyTorch profiler (Kineto, Chrome's JSON), of one rank or several."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import numpy as np

from instances.recordings.source import (
    MAX_BYTES,
    MAX_OBJECTS,
    Source,
    decoded,
    hashes,
    json_content,
)
from instances.recordings.steps import (
    BACKWARD,
    COMMUNICATION,
    FORWARD,
    OTHER,
    STEP,
    UPDATE,
    merge,
)
from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError, FileFormatError
from lemix_opt.recording import UNKNOWN, Provenance, Recording, table

_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
_RUNTIME = ("cuda_runtime", "cuda_driver", "hip_runtime")
_STEP = re.compile(r"ProfilerStep\s*#(\d{1,9})")
_AUTOGRAD = "autograd::engine::evaluate_function"
_COLLECTIVE = re.compile(r"nccl|rccl", re.IGNORECASE)
_MOST_US = 1e18


class _Args(msgspec.Struct, gc=False):
    correlation: int | float | str | None = None
    device: int | float | str | None = None
    bytes: int | float | str | None = None
    external: int | float | str | None = msgspec.field(default=None, name="External id")


class _Event(msgspec.Struct, gc=False):
    ph: str
    name: str = ""
    cat: str | None = None
    ts: float | None = None
    dur: float | None = None
    tid: int | float | str | None = None
    args: _Args | None = None


class _Ranks(msgspec.Struct):
    rank: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | None = None


class _File(msgspec.Struct):
    events: list[_Event] = msgspec.field(name="traceEvents")
    ranks: _Ranks | None = msgspec.field(default=None, name="distributedInfo")
    base: int | None = msgspec.field(default=None, name="baseTimeNanoseconds")


@dataclass(frozen=True)
class _Cover:
    """Spans of one kind by thread, merged, to ask whether a moment lies in one."""

    spans: dict[object, tuple[FloatArray, FloatArray]]

    def has(self, thread: object, at: float) -> bool:
        if thread not in self.spans:
            return False
        start, end = self.spans[thread]
        row = int(np.searchsorted(start, at, side="right")) - 1
        return row >= 0 and at <= end[row]


def read_kineto(
    path: Source | Sequence[Source],
    max_bytes: int = MAX_BYTES,
    max_objects: int = MAX_OBJECTS,
) -> Recording:
    """Read what the GPU did in every profiled step, by what it was launched from.

    Every kernel and copy becomes a span of the step it was launched in. Its phase is
    ``communication`` if NCCL ran it, else ``update`` if it was launched within an optimizer's step,
    ``backward`` if by the autograd engine, ``forward`` if within an annotation that says so (in a
    trace without one: if by any other operator), else ``other``. Steps themselves are spans of
    phase ``step``, of the processor's time. A trace without GPU has its outermost operators
    instead. `instances.recordings.steps.steps_of` adds up
    times.

    Parameters
    ----------
    path : path-like or sequence of path-like
        ``.json`` or ``.json.gz``; several files are ranks of one run.
    max_bytes, max_objects : int, default 2**28 and 2**21
        Largest content of a file, decompressed, and most JSON objects in it.

    Returns
    -------
    Recording
        Spans; the task is the number of the step, the node the rank (−1: not recorded).

    Raises
    ------
    FileFormatError
        Naming the file, and the line or the event.
    """
    single = isinstance(path, str) or not isinstance(path, Sequence)
    paths = [cast(Source, path)] if single else list(cast(Sequence[Source], path))
    if not paths:
        raise FieldError("no files", where="path", expected="at least one")
    files = []
    for place in paths:
        content = json_content(place, "a PyTorch profiler trace", max_bytes, max_objects)
        files.append(decoded(content, _File, place))
    said: list[str] = []
    ranks = [UNKNOWN if f.ranks is None or f.ranks.rank is None else f.ranks.rank for f in files]
    if len(files) > 1 and (UNKNOWN in ranks or len(set(ranks)) < len(ranks)):
        raise FileFormatError(
            f"ranks {ranks}",
            where=", ".join(str(p) for p in paths)[:200],
            expected="distributedInfo.rank in every file, each rank once",
        )
    parts = [
        _spans(place, file, rank, said)
        for place, file, rank in zip(paths, files, ranks, strict=True)
    ]
    bases = [file.base for file in files]
    if len(files) > 1:
        said.append("clocks of ranks on several machines need not agree")
    # Without a base in every file, their own zeros are all there is.
    known = [base for base in bases if base is not None and abs(base) < 2**62]
    based = len(known) == len(files)
    shift_us = [(base - min(known)) / 1e3 if based and base else 0.0 for base in bases]
    columns: dict[str, list[Any]] = {key: [] for key in parts[0]}
    for part, shift in zip(parts, shift_us, strict=True):
        for key, values in part.items():
            columns[key] += [v + shift for v in values] if key.endswith("_us") else values
    zero = min(columns["start_us"])
    for edge in ("start", "end"):
        columns[f"{edge}_s"] = [(at - zero) * 1e-6 for at in columns.pop(f"{edge}_us")]
    source = "steps under the PyTorch profiler"
    clock = f"the profiler's; 0 = {zero!r} us" + (
        f" after {min(known)} ns since 1970 (UTC)" if based else ", of a base that is not recorded"
    )
    provenance = Provenance("recorded", source, clock, {}, hashes(paths), tuple(said))
    return Recording(provenance, table("spans", columns))


def _spans(place: Source, file: _File, rank: int, said: list[str]) -> dict[str, list[Any]]:
    """Return the columns of one file's spans, times still in its own microseconds."""
    events = []
    for row, event in enumerate(file.events):
        if event.ph != "X":
            continue
        if (
            event.ts is None
            or event.dur is None
            or abs(event.ts) > _MOST_US
            or not 0 <= event.dur < _MOST_US
        ):
            raise FileFormatError(
                f"ts {event.ts}, dur {event.dur} of {event.name[:40]!r}",
                where=f"{place}: traceEvents[{row}]",
                expected="times in microseconds, none negative in length",
            )
        events.append(event)
    steps = sorted(
        (float(e.ts or 0), float(e.ts or 0) + float(e.dur or 0), int(match[1]))
        for e in events
        if e.cat in ("user_annotation", "cpu_op") and (match := _STEP.fullmatch(e.name))
    )
    work = [e for e in events if e.cat in _GPU]
    on_gpu = bool(work)
    if not on_gpu:
        work = _outermost(events)
        said.append(f"{Path(place).name}: no GPU; spans are outermost operators of the processor")
    if not work:
        raise FileFormatError(
            "no kernels and no operators", where=str(place), expected="a PyTorch profiler trace"
        )
    launches = {
        e.args.correlation: e
        for e in events
        if e.cat in _RUNTIME and e.args is not None and e.args.correlation is not None
    }
    phases = _Phases(events)
    columns: dict[str, list[Any]] = {
        key: [] for key in ("task", "phase", "name", "node", "device", "bytes")
    }
    columns |= {"start_us": [], "end_us": []}
    lost = 0

    def add(task: int, phase: str, e: _Event, device: int, size: float) -> None:
        start = float(e.ts or 0)
        row = (task, phase, e.name, rank, device, size, start, start + float(e.dur or 0))
        for values, value in zip(columns.values(), row, strict=True):
            values.append(value)

    for e in work:
        args = e.args or _Args()
        launch = launches.get(args.correlation or "") if on_gpu else e
        lost += launch is None
        phase, task = phases.of(e, launch), UNKNOWN
        if launch is not None:
            task = _step_at(steps, float(launch.ts or 0))
        add(task, phase, e, _whole(args.device), _size(args.bytes))
    for e in events:
        match = _STEP.fullmatch(e.name)
        if match and e.cat in ("user_annotation", "cpu_op"):
            add(int(match[1]), STEP, e, UNKNOWN, np.nan)
    name = Path(place).name
    if lost:
        said.append(f"{name}: {lost} kernels without a launch: of no step, phase other unless NCCL")
    if not steps:
        said.append(f"{name}: no ProfilerStep annotations; all spans are of task -1")
    if not phases.says_forward:
        said.append(f"{name}: no annotation of the forward; it is all that no other phase is")
    return columns


class _Phases:
    """What a thread was doing at a moment."""

    def __init__(self, events: list[_Event]) -> None:
        named = [e for e in events if e.cat == "user_annotation"]
        operators = [e for e in events if e.cat == "cpu_op"]
        self.update = _cover([e for e in named if e.name.startswith("Optimizer.step")])
        engine = [e for e in operators if e.name.startswith(_AUTOGRAD)]
        self.backward = _cover(engine + [e for e in named if "backward" in e.name.lower()])
        forward = [
            e for e in named if "forward" in e.name.lower() and "backward" not in e.name.lower()
        ]
        self.says_forward = bool(forward)
        self.forward = _cover(forward or operators)

    def of(self, work: _Event, launch: _Event | None) -> str:
        if _COLLECTIVE.search(work.name):
            return COMMUNICATION
        if launch is None:
            return OTHER
        thread, at = launch.tid, float(launch.ts or 0)
        for phase, cover in (
            (UPDATE, self.update),
            (BACKWARD, self.backward),
            (FORWARD, self.forward),
        ):
            if cover.has(thread, at):
                return phase
        return OTHER


def _cover(events: list[_Event]) -> _Cover:
    by_thread: dict[object, list[tuple[float, float]]] = {}
    for e in events:
        start = float(e.ts or 0)
        by_thread.setdefault(e.tid, []).append((start, start + float(e.dur or 0)))
    merged = {}
    for thread, spans in by_thread.items():
        found = merge(np.array(sorted(spans)))
        merged[thread] = (found[:, 0], found[:, 1])
    return _Cover(merged)


def _outermost(events: list[_Event]) -> list[_Event]:
    """Operators of the processor that no other one of their thread contains."""
    until: dict[object, float] = {}
    found = []
    operators = [e for e in events if e.cat == "cpu_op" and not _STEP.fullmatch(e.name)]
    for e in sorted(operators, key=lambda e: (float(e.ts or 0), -float(e.dur or 0))):
        end = float(e.ts or 0) + float(e.dur or 0)
        if end > until.get(e.tid, -np.inf) and float(e.ts or 0) >= until.get(e.tid, -np.inf):
            found.append(e)
            until[e.tid] = end
    return found


def _step_at(steps: list[tuple[float, float, int]], at: float) -> int:
    row = bisect_right(steps, (at, np.inf, 0)) - 1
    return steps[row][2] if row >= 0 and at <= steps[row][1] else UNKNOWN


def _whole(value: float | str | None) -> int:
    plain = isinstance(value, int) and 0 <= value < 2**31
    return cast(int, value) if plain else UNKNOWN


def _size(value: float | str | None) -> float:
    plain = isinstance(value, int | float) and 0 <= value < 2**63
    return float(cast(float, value)) if plain else np.nan
