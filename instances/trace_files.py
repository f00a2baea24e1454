"""Trace files: tasks, costs, schedule and timelines as Parquet tables in one zip file.

The format is described in ``docs/traces.md``.
"""

from __future__ import annotations

import os

from instances.files import located
from instances.table_zip import Columns, TableZip, write_tables
from instances.trace_header import NAME, Header, header_of
from instances.trace_header import read_header as header_in
from instances.trace_tables import problem_tables, read_problem, read_schedule, schedule_tables
from lemix_opt.errors import FileFormatError, LemixError
from lemix_opt.recording import LAYOUTS, Recording, table
from lemix_opt.trace import Trace

MAX_BYTES = 2**30
"""Largest trace that is read, decompressed and decoded."""


def write_trace(content: Trace | Recording, path: str | os.PathLike[str]) -> None:
    """Write a trace, or a recording alone; the file appears whole or not at all.

    Parameters
    ----------
    content : Trace or Recording
        What to write; the same content gives the same bytes.
    path : path-like
        Target.
    """
    recording = content if isinstance(content, Recording) else content.recording
    tables: dict[str, Columns] = {}
    if isinstance(content, Trace):
        tables |= problem_tables(content)
        if content.schedule is not None:
            tables |= schedule_tables(content.schedule)
    if recording is not None:
        tables |= {name: dict(getattr(recording, name)) for name in LAYOUTS}
    write_tables(path, NAME, header_of(content), tables)


def read_header(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Header:
    """Return what a trace file says about itself, without its tables."""
    return header_in(_open(path, max_bytes))


def read_trace(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Trace:
    """Read a trace that can be replayed.

    Parameters
    ----------
    path : path-like
        The file.
    max_bytes : int, default 2**30
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
        instance, actual = read_problem(archive, header.problem)
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
