"""Traces of the PyTorch profiler (Kineto, Chrome's JSON), of one rank or several."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np

from instances.recordings.chrome import (
    ANNOTATION,
    GPU,
    OPERATOR,
    Event,
    Events,
    microseconds,
    read_events,
    text_of,
    whole_of,
)
from instances.recordings.odd_times import launch_of, overlaps, without_outliers
from instances.recordings.source import MAX_BYTES, MAX_OBJECTS, Source, hashes
from instances.recordings.steps import BACKWARD, COMMUNICATION, FORWARD, OTHER, STEP, UPDATE
from lemix_opt.errors import FieldError, FileFormatError
from lemix_opt.recording import UNKNOWN, Provenance, Recording, table

_STEP = re.compile(r"ProfilerStep\s*#(\d{1,9})")
_AUTOGRAD = re.compile(r"autograd::engine::evaluate_function|\w*Backward\d*$")
_COLLECTIVE = re.compile(r"nccl|rccl|msccl|oneccl|hccl|xccl", re.IGNORECASE)
_WHAT = "a PyTorch profiler trace"
_LEGACY = (
    "Events of `torch.autograd.profiler` without Kineto have no category: export with "
    "`torch.profiler.profile`"
)


@dataclass(frozen=True)
class _Cover:
    """Spans of one kind by thread, merged, to ask whether a moment lies in one."""

    spans: dict[str, tuple[list[int], list[int]]]

    def has(self, thread: str, at: int) -> bool:
        if thread not in self.spans:
            return False
        start, end = self.spans[thread]
        row = bisect_right(start, at) - 1
        return row >= 0 and at <= end[row]


def read_kineto(
    path: Source | Sequence[Source],
    max_bytes: int = MAX_BYTES,
    max_objects: int = MAX_OBJECTS,
    ranks: str | int | Sequence[int] = "",
) -> Recording:
    """Read what the GPU did in every profiled step, by what it was launched from.

    Every kernel and copy becomes a span of the step it was launched in. Its phase is
    ``communication`` if NCCL ran it, else ``update`` if it was launched within an optimizer's step,
    ``backward`` if by the autograd engine, ``forward`` if within an annotation that says so (in a
    trace without one: if by any other operator), else ``other``. Steps themselves are spans of
    phase ``step``, of the processor's time. A trace without GPU has its outermost operators
    instead, of device −1. `instances.recordings.steps.steps_of` adds up times.

    Launches are events of any category that ends in ``_runtime`` or ``_driver``. Events that cannot
    be (without a length, or stamped far from all others) are left out; warnings name them, and the
    categories that were not read. Times are differences of whole nanoseconds.

    Parameters
    ----------
    path : path-like or sequence of path-like
        ``.json`` or ``.json.gz``; several files are ranks of one run.
    max_bytes, max_objects : int, default 2**28 and 2**21
        Largest content of a file, decompressed, and most JSON objects in it.
    ranks : str or sequence of int, default ""
        Rank of every file, as in ``"0,1"``, for files that do not say theirs.

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
    given = _given(ranks, len(paths))
    files = [read_events(place, _WHAT, max_bytes, max_objects) for place in paths]
    said: list[str] = []
    numbers = _ranks(paths, files, given, said)
    parts = [
        _spans(place, file, rank) for place, file, rank in zip(paths, files, numbers, strict=True)
    ]
    for file in files:
        said += file.said
    if len(files) > 1:
        said.append("clocks of ranks on several machines need not agree")
    # Without a base in every file, their own zeros are all there is.
    bases = [file.base_ns for file in files]
    known = [base for base in bases if base is not None]
    based = len(known) == len(files)
    columns: dict[str, list[Any]] = {key: [] for key in parts[0]}
    for part, base in zip(parts, bases, strict=True):
        shift = base - min(known) if based and base is not None else 0
        for key, values in part.items():
            columns[key] += [v + shift for v in values] if key.endswith("_ns") else values
    zero = min(columns["start_ns"])
    for edge in ("start", "end"):
        columns[f"{edge}_s"] = [(at - zero) / 10**9 for at in columns.pop(f"{edge}_ns")]
    source = "steps under the PyTorch profiler"
    clock = f"the profiler's; 0 = {microseconds(zero)} us" + (
        f" after {min(known)} ns since 1970 (UTC)" if based else ", of a base that is not recorded"
    )
    provenance = Provenance("recorded", source, clock, {}, hashes(paths), tuple(said))
    return Recording(provenance, table("spans", columns))


def _given(ranks: str | int | Sequence[int], files: int) -> list[int]:
    """Return the ranks that were given, none or one per file."""
    if isinstance(ranks, str):
        texts = [word.strip() for word in ranks.strip(" []()").split(",") if word.strip()]
    else:
        texts = [str(rank) for rank in ([ranks] if isinstance(ranks, int) else ranks)]
    plain = all(text.isascii() and text.isdigit() and int(text) < 2**31 for text in texts)
    if not plain or len(texts) not in (0, files) or len({int(t) for t in texts}) < len(texts):
        raise FieldError(
            f"ranks {', '.join(texts)[:80]}",
            where="ranks",
            expected=f"{files} different whole numbers, in the order of the files",
        )
    return [int(text) for text in texts]


def _ranks(
    paths: list[Source], files: list[Events], given: list[int], said: list[str]
) -> list[int]:
    """Return the rank of every file; what was given stands before what files say."""
    found = [UNKNOWN if file.rank is None else file.rank for file in files]
    if given:
        for file, rank, own in zip(files, given, found, strict=True):
            if own not in (UNKNOWN, rank):
                said.append(f"{file.name}: of rank {own} by itself, taken as rank {rank} as given")
        return given
    if len(files) > 1 and (UNKNOWN in found or len(set(found)) < len(found)):
        numbers = ",".join(map(str, range(len(files))))
        raise FileFormatError(
            f"ranks {found}",
            where=", ".join(str(p) for p in paths)[:200],
            expected="distributedInfo.rank in every file, each rank once",
            hint=f"Give them in the order of the files: --set ranks={numbers}",
        )
    return found


def _spans(place: Source, file: Events, rank: int) -> dict[str, list[Any]]:
    """Return the columns of one file's spans, times in nanoseconds of its own clock."""
    said = file.said
    events, launches = without_outliers(file.found, file.name, said)
    work = [event for event in events if event.kind == GPU]
    on_gpu = bool(work)
    if not on_gpu:
        work = _outermost(events)
        unread = "" if not file.unread else " that this reader knows"
        said.append(f"{file.name}: no GPU{unread}; spans are outermost operators of the processor")
    if not work:
        raise FileFormatError(
            "; ".join(["no kernels and no operators", *file.odd[:1], *file.said[:-1]])[:500],
            where=str(place),
            expected=_WHAT,
            hint=_LEGACY if "without category" in file.unread else None,
        )
    phases = _Phases(events)
    steps = _steps(events)
    find = _Steps(steps)
    columns: dict[str, list[Any]] = {
        key: [] for key in ("task", "phase", "name", "node", "device", "bytes")
    }
    columns |= {"start_ns": [], "end_ns": []}

    def add(*row: Any) -> None:
        for values, value in zip(columns.values(), row, strict=True):
            values.append(value)

    streams = []
    lost = nowhere = 0
    for e in work:
        device, size = UNKNOWN, np.nan
        launch = launch_of(e, launches) if on_gpu else e
        lost += launch is None
        if on_gpu:
            known, stream, size = _place(e)
            nowhere += known is None
            device = known or 0
            streams.append(((device, stream), e))
        task = UNKNOWN if launch is None else find.at(launch.start)
        add(task, phases.of(e, launch), e.name, rank, device, size, e.start, e.end)
    for start, end, number in steps:
        add(number, STEP, f"ProfilerStep#{number}", rank, UNKNOWN, np.nan, start, end)
    said += overlaps(streams, file.name)
    if nowhere:
        said.append(f"{file.name}: {nowhere} kernels of a device not recorded, taken as device 0")
    if lost:
        said.append(
            f"{file.name}: {lost} kernels without a launch: of no step, phase other unless NCCL"
        )
    if not steps:
        said.append(f"{file.name}: no ProfilerStep annotations; all spans are of task -1")
    if not phases.says_forward:
        said.append(f"{file.name}: no annotation of the forward; it is all that no other phase is")
    return columns


def _place(event: Event) -> tuple[int | None, str, float]:
    """Return device, stream and bytes; Kineto has the first two as process and thread as well."""
    if event.args is None:
        return None, event.thread, np.nan
    device = whole_of(event.args.device)
    if device is None and event.process.isascii() and event.process.isdigit():
        device = int(event.process) if len(event.process) < 10 else None
    size = whole_of(event.args.bytes, 2**63)
    stream = text_of(event.args.stream) or event.thread
    return device, stream, np.nan if size is None else float(size)


def _steps(events: Iterable[Event]) -> list[tuple[int, int, int]]:
    """Return start, end and number of every step; what repeats or overlaps itself counts once."""
    by_number: dict[int, list[tuple[int, int]]] = {}
    for e in events:
        if e.kind in (ANNOTATION, OPERATOR) and (match := _STEP.fullmatch(e.name)):
            by_number.setdefault(int(match[1]), []).append((e.start, e.end))
    return sorted(
        (start, end, number) for number, spans in by_number.items() for start, end in _merged(spans)
    )


class _Steps:
    """Which step a moment lies in: of several, the one that began last."""

    def __init__(self, steps: list[tuple[int, int, int]]) -> None:
        self.steps = steps
        self.starts = [start for start, _, _ in steps]
        ends = np.array([end for _, end, _ in steps], dtype=np.int64)
        self.latest = np.maximum.accumulate(ends).tolist() if steps else []

    def at(self, moment: int) -> int:
        row = bisect_right(self.starts, moment) - 1
        while row >= 0 and moment <= self.latest[row]:
            if moment <= self.steps[row][1]:
                return self.steps[row][2]
            row -= 1
        return UNKNOWN


class _Phases:
    """What a thread was doing at a moment."""

    def __init__(self, events: list[Event]) -> None:
        named = [e for e in events if e.kind == ANNOTATION]
        operators = [e for e in events if e.kind == OPERATOR]
        self.update = _cover(e for e in named if e.name.startswith("Optimizer.step"))
        engine = [e for e in operators if _AUTOGRAD.match(e.name)]
        self.backward = _cover(engine + [e for e in named if "backward" in e.name.lower()])
        forward = [
            e for e in named if "forward" in e.name.lower() and "backward" not in e.name.lower()
        ]
        self.says_forward = bool(forward)
        self.forward = _cover(forward or operators)

    def of(self, work: Event, launch: Event | None) -> str:
        if _is_collective(work.name):
            return COMMUNICATION
        if launch is None:
            return OTHER
        thread, at = launch.thread, launch.start
        for phase, cover in (
            (UPDATE, self.update),
            (BACKWARD, self.backward),
            (FORWARD, self.forward),
        ):
            if cover.has(thread, at):
                return phase
        return OTHER


# Kernels run again and again.
@lru_cache(maxsize=4096)
def _is_collective(name: str) -> bool:
    return _COLLECTIVE.search(name) is not None


def _cover(events: Iterable[Event]) -> _Cover:
    by_thread: dict[str, list[tuple[int, int]]] = {}
    for e in events:
        by_thread.setdefault(e.thread, []).append((e.start, e.end))
    found = {}
    for thread, spans in by_thread.items():
        merged = _merged(spans)
        found[thread] = ([start for start, _ in merged], [end for _, end in merged])
    return _Cover(found)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of intervals as disjoint ones."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _outermost(events: list[Event]) -> list[Event]:
    """Operators of the processor that no other one of their thread contains."""
    until: dict[str, int] = {}
    found = []
    operators = [e for e in events if e.kind == OPERATOR and not _STEP.fullmatch(e.name)]
    for e in sorted(operators, key=lambda e: (e.start, -e.end)):
        last = until.get(e.thread)
        if last is None or (e.end > last and e.start >= last):
            found.append(e)
            until[e.thread] = e.end
    return found
