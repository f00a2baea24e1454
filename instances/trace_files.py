"""Trace files: tasks, costs, schedule and timelines as Parquet tables in one zip file.

The format is described in ``docs/traces.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from instances.files import located
from instances.limits import within_limits
from instances.table_zip import MAX_BYTES, Columns, TableZip, write_tables
from instances.trace_header import NAME, SIDES, Header, costs_of, header_of
from instances.trace_header import read_header as header_in
from instances.trace_tables import problem_tables, read_problem, read_schedule, schedule_tables
from lemix_opt.errors import FileFormatError, LemixError
from lemix_opt.recording import LAYOUTS, Recording, table
from lemix_opt.trace import Trace


def write_trace(
    content: Trace | Recording, path: str | os.PathLike[str], *, compress: bool | None = None
) -> None:
    """Write a trace, or a recording alone; the file appears whole or not at all.

    Parameters
    ----------
    content : Trace or Recording
        What to write; the same content gives the same bytes.
    path : path-like
        Target.
    compress : bool, optional
        Whether tables are compressed, which takes several times as long as writing them; those of
        at most `table_zip.LARGE_BYTES` are when omitted.
    """
    write_tables(path, NAME, header_of(content), _tables(content), compress)


def _tables(content: Trace | Recording) -> Iterator[tuple[str, Columns]]:
    recording = content if isinstance(content, Recording) else content.recording
    if isinstance(content, Trace):
        yield from problem_tables(content.instance, costs_of(content))
        if content.schedule is not None:
            yield from schedule_tables(content.schedule)
    if recording is not None:
        for name in LAYOUTS:
            yield name, dict(getattr(recording, name))


def read_header(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Header:
    """Return what a trace file says about itself, without its tables."""
    return header_in(_open(path, max_bytes))


def read_trace(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Trace:
    """Read a trace that can be replayed.

    Parameters
    ----------
    path : path-like
        The file.
    max_bytes : int, default 2**32
        Largest content accepted, decompressed and decoded.

    Raises
    ------
    FileFormatError
        If the file is no trace file, or holds timelines only; the message names file and table.
    LemixError
        If instance, costs or schedule are refused.
    """
    archive = _open(path, max_bytes)
    header = header_in(archive)
    if header.problem is None:
        raise FileFormatError(
            "timelines only",
            where=str(archive.path),
            expected="a trace with tasks and costs",
            hint="'lemix trace' prints what is in it",
        )
    said, schedule = header.provenance, None
    try:
        instance, actual = read_problem(archive, header.problem, SIDES)
        within_limits(instance.cluster, instance.workload, instance.costs)
        if header.schedule:
            stages = instance.cluster.stages
            schedule = read_schedule(archive, header.generated, instance.tasks, stages)
        recording = _recording(archive, header) if header.recording else None
        return Trace(instance, actual, said.truth, said.source, schedule, recording)
    except LemixError as error:
        raise located(error, archive.path) from None


def read_recording(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Recording:
    """Read the timelines of a trace file.

    Raises
    ------
    FileFormatError
        If the file is no trace file, or has no timelines, as computed traces.
    """
    archive = _open(path, max_bytes)
    header = header_in(archive)
    if not header.recording:
        raise FileFormatError(
            "no timelines", where=str(archive.path), expected="the trace of a recording"
        )
    try:
        return _recording(archive, header)
    except LemixError as error:
        raise located(error, archive.path) from None


def _open(path: str | os.PathLike[str], max_bytes: int) -> TableZip:
    return TableZip(path, "a trace file", max_bytes)


def _recording(archive: TableZip, header: Header) -> Recording:
    tables = {name: table(name, archive.table(name, layout)) for name, layout in LAYOUTS.items()}
    return Recording(header.provenance, **tables)
