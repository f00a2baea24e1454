"""Instance files: JSON, or Parquet tables in one zip file for large ones."""

from __future__ import annotations

import os

import msgspec

from instances.files import MAX_BYTES as MAX_JSON_BYTES
from instances.files import located, read_instance_json, write_instance_json
from instances.limits import within_limits
from instances.table_zip import MAX_BYTES, TableZip, is_zip, wants_tables, write_tables
from instances.trace_header import SIDES, Problem, header_in, problem_of
from instances.trace_tables import problem_tables, read_problem
from lemix_opt.errors import LemixError
from lemix_opt.instance import Instance
from lemix_opt.plain import INSTANCE_HEADER

NAME = "instance.json"
"""Header of the tables."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    problem: Problem


def write(
    instance: Instance, path: str | os.PathLike[str], *, compress: bool | None = None
) -> None:
    """Write an instance; the file appears whole or not at all.

    Parameters
    ----------
    instance : Instance
        What to write.
    path : path-like
        Target: JSON when it ends in ``.json`` or ``.gz``, compressed then, and tables when it ends
        in ``.zip``. Any other name gets JSON up to 100,000 tasks and tables beyond: these are
        written and read ten times as fast.
    compress : bool, optional
        Whether tables are compressed, which takes several times as long as writing them; those of
        at most `table_zip.LARGE_BYTES` are when omitted.
    """
    if not wants_tables(path, instance.tasks):
        write_instance_json(instance, path)
        return
    sides = {SIDES[0]: instance.costs}
    header = INSTANCE_HEADER | {"problem": problem_of(instance, sides)}
    write_tables(path, NAME, header, problem_tables(instance, sides), compress)


def read(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Instance:
    """Read an instance file of either form, which its content tells.

    Releases so late that floats there are too far apart (`lemix_opt.workload.FINEST_S`) are counted
    from the first one, exactly, where the file is JSON; a warning says so, and
    `Workload.origin_ns` keeps the first.

    Parameters
    ----------
    path : path-like
        A file made by `write`.
    max_bytes : int, optional
        Largest content accepted, decompressed and, of tables, decoded; 2**30 for JSON and 2**32
        for tables when omitted.

    Raises
    ------
    FileFormatError
        If the content is no instance file; the message names file and field.
    LemixError
        If the instance itself is refused; the message names file and field.
    """
    if not is_zip(path, "an instance file"):
        return read_instance_json(path, MAX_JSON_BYTES if max_bytes is None else max_bytes)
    archive = TableZip(path, "an instance file", MAX_BYTES if max_bytes is None else max_bytes)
    form, version = INSTANCE_HEADER.values()
    try:
        header = header_in(archive, NAME, form, version, _Header)
        (instance,) = read_problem(archive, header.problem, SIDES[:1])
        within_limits(instance.cluster, instance.workload, instance.costs)
    except LemixError as error:
        raise located(error, archive.path) from None
    found: Instance = instance
    return found
