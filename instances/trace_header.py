"""What a trace file says about itself: provenance, sizes and rules; its arrays are in tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

import msgspec

from instances.files import OPTIONS
from instances.table_zip import TableZip
from lemix_opt.costs import Costs
from lemix_opt.errors import FileFormatError
from lemix_opt.instance import Instance
from lemix_opt.plain import columns_to_plain
from lemix_opt.recording import Provenance, Recording
from lemix_opt.result import versions
from lemix_opt.trace import Trace

FORMAT, VERSION = "lemix-opt trace", 2
NAME = "trace.json"
SIDES = ("predicted", "actual")
"""Costs in a trace."""


Kind = TypeVar("Kind")


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and rules of an instance; fields without a remark are those of `Instance`.

    Parameters
    ----------
    nodes, stages, classes : int
        Sizes; the number of tasks is that of the rows of the table ``tasks``.
    node_class : list of int
        Class of every node.
    predicted_iterations, actual_iterations : bool
        Whether predicted and actual costs know iterations of token generation; an instance file
        has no actual ones.
    predicted_knots, actual_knots : int, default 0
        Knots of their curves over tokens.
    origin_ns : int, default 0
        As in `Workload`.
    """

    nodes: int
    stages: int
    classes: int
    node_class: list[int]
    predicted_iterations: bool
    actual_iterations: bool = False
    release_mode: str
    pipeline: str
    micro_batches: int
    gpu_order: str
    gpu_sharing: str
    memory_rule: str
    memory_fraction: float
    fifo: bool
    tick_s: float
    slo_unit_s: float | None
    weight_sync: dict[str, Any] | None
    memory_wait: dict[str, Any] | None
    contention: dict[str, Any] | None
    generation: dict[str, Any] | None
    predicted_knots: int = 0
    actual_knots: int = 0
    origin_ns: int = 0

    def rules(self) -> dict[str, Any]:
        """Return the fields of `Instance` that are not in tables."""
        names = [f.name for f in fields(Instance) if hasattr(self, f.name)]
        return {name: getattr(self, name) for name in names}


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of `trace.json`.

    Parameters
    ----------
    provenance : Provenance
        Where the numbers come from.
    recording, schedule, generated : bool
        Whether there are timelines, an executed schedule, and tokens generated in it.
    problem : Problem, optional
        The instance; a recording alone has none.
    """

    provenance: Provenance
    recording: bool
    schedule: bool
    generated: bool
    problem: Problem | None


def header_of(content: Trace | Recording) -> dict[str, Any]:
    """Return the header of a trace, or of a recording alone, ready for JSON."""
    trace = content if isinstance(content, Trace) else None
    recording = content if isinstance(content, Recording) else content.recording
    schedule = None if trace is None else trace.schedule
    if recording is not None:
        provenance = recording.provenance
    elif trace is not None:
        clock = "seconds of the model; 0 is the beginning of the run"
        provenance = Provenance(trace.truth, trace.provenance, clock, versions())
    return {
        "format": FORMAT,
        "version": VERSION,
        "provenance": asdict(provenance),
        "recording": recording is not None,
        "schedule": schedule is not None,
        "generated": schedule is not None and schedule.generated is not None,
        "problem": None if trace is None else problem_of(trace.instance, costs_of(trace)),
    }


def costs_of(trace: Trace) -> dict[str, Costs]:
    """Return both costs of a trace, by their side."""
    return dict(zip(SIDES, (trace.instance.costs, trace.actual), strict=True))


def problem_of(instance: Instance, sides: Mapping[str, Costs]) -> dict[str, Any]:
    """Return the sizes and rules of an instance, ready for JSON, with costs by their side."""
    plain: dict[str, Any] = {
        f.name: getattr(instance, f.name)
        for f in fields(Instance)
        if f.name not in ("cluster", "workload", "costs")
    }
    for name in OPTIONS:
        plain[name] = None if plain[name] is None else columns_to_plain(plain[name])
    unit = instance.slo_unit_s
    said: dict[str, Any] = {
        f"{side}_iterations": costs.iteration is not None for side, costs in sides.items()
    }
    said |= {f"{side}_knots": _knots(costs) for side, costs in sides.items()}
    return plain | {
        "nodes": instance.cluster.nodes,
        "stages": instance.cluster.stages,
        "classes": instance.costs.classes,
        "node_class": instance.cluster.node_class.tolist(),
        **said,
        "slo_unit_s": None if unit is None or math.isnan(unit) else unit,
        "origin_ns": instance.workload.origin_ns,
    }


def _knots(costs: Costs) -> int:
    return 0 if costs.iteration is None else int(costs.iteration.token_knots.size)


def read_header(archive: TableZip) -> Header:
    """Return the header of an open trace file; see `header_in`."""
    return header_in(archive, NAME, FORMAT, VERSION, Header)


def header_in(archive: TableZip, name: str, form: str, version: int, kind: type[Kind]) -> Kind:
    """Return the header `name` of an open file.

    Raises
    ------
    FileFormatError
        If it is not the header of this form and version.
    """
    where = f"{archive.path}: {name}"
    try:
        plain = msgspec.json.decode(archive.header(name))
        found = plain.pop("format", None), plain.pop("version", None)
        if found == (form, version):
            return msgspec.convert(plain, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError) as error:
        raise FileFormatError(
            f"{error}", where=where, expected="a header written by this toolkit"
        ) from None
    raise FileFormatError(
        f"format {str(found[0])[:40]!r}, version {str(found[1])[:40]}",
        where=where,
        expected=f"{form!r}, version {version}",
    )
