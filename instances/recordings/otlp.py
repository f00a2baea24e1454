"""Spans of OpenTelemetry: OTLP in JSON, whole files or one request a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from instances.formats import format_hint
from instances.recordings.otlp_requests import Served
from instances.recordings.otlp_spans import Odd, Span, Value, spans_in
from instances.recordings.source import (
    MAX_BYTES,
    MAX_OBJECTS,
    Source,
    hashes,
    json_content,
    shortened,
)
from lemix_opt.checks import choice
from lemix_opt.errors import FieldError, FileFormatError, excerpt
from lemix_opt.files import utf8_of
from lemix_opt.recording import INT, SPANS, UNKNOWN, Provenance, Recording, table

_FROM_ATTRIBUTES = ("task", "phase", "node", "stage", "device", "bytes")


@dataclass
class _Found:
    wanted: dict[str, str]
    phases: dict[str, str]
    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {n: [] for n in (*_FROM_ATTRIBUTES, "name", "start", "end")}
    )
    tasks: dict[str, int] = field(default_factory=dict)
    services: dict[str, int] = field(default_factory=dict)
    odd: Odd = field(default_factory=Odd)
    left_out: list[str] = field(default_factory=list)
    attributes: dict[str, list[str]] = field(default_factory=dict)
    """Where an attribute had a value of another type than its column."""
    counted: Counter[str] = field(default_factory=Counter)
    """Spans with the attribute of a column."""
    served: Served = field(default_factory=Served)


def read_otlp(
    path: Source,
    attributes: Mapping[str, str] | None = None,
    phases: Mapping[str, str] | None = None,
    max_bytes: int = MAX_BYTES,
    max_objects: int = MAX_OBJECTS,
) -> Recording:
    """Read spans of an OTLP/JSON export of traces, or of Jaeger's JSON.

    A trace becomes a task and a service a node, numbered as they come, unless attributes tell them.
    Spans of vLLM's requests (``llm_request``, with attributes ``gen_ai.latency.…``) also become
    rows of the table of requests. Spans without end, which were still open, and spans that cannot
    be are left out and reported; lines without spans, such as metrics, are passed over.

    Parameters
    ----------
    path : path-like
        ``.json``, or lines of JSON as the collector's file exporter writes them; gzip by the
        ending ``.gz``.
    attributes : mapping of str to str, optional
        Attributes of spans that hold ``task``, ``phase``, ``node``, ``stage``, ``device`` or
        ``bytes``. A span without the attribute, or with one of another type, is unknown there.
    phases : mapping of str to str, optional
        Phase by the name of a span; a span that is not named has no phase.
    max_bytes, max_objects : int, default 2**28 and 2**21
        Largest content, decompressed, and most JSON objects in it.

    Raises
    ------
    FileFormatError
        Naming file and line: for content of another format, without any span, or with an attribute
        of another type in all spans that have it.
    FieldError
        For an attribute of an unknown column.
    """
    wanted = dict(attributes or {})
    for name, attribute in wanted.items():
        choice("attributes", name, _FROM_ATTRIBUTES)
        if not isinstance(attribute, str):
            raise FieldError(f"{attribute!r}", where=f"attributes.{name}", expected="a name")
    for name, phase in dict(phases or {}).items():
        if not isinstance(phase, str):
            raise FieldError(f"{phase!r}", where=f"phases.{name}", expected="a phase")
    content = json_content(path, "an OTLP/JSON export of traces", max_bytes, max_objects)
    content = utf8_of(content)
    found = _Found(wanted, dict(phases or {}))
    for span in spans_in(content, path, found.odd):
        _add(found, span)
    columns, left_out = found.columns, [*found.odd.spans, *found.left_out]
    if not columns["start"]:
        raise FileFormatError(
            "no spans" + (f": {left_out[0]}" if left_out else ""),
            where=str(path),
            expected="at least one span",
            hint=_without_spans(content) if not left_out else None,
        )
    for name, places in found.attributes.items():
        if len(places) == found.counted[name]:
            raise FileFormatError(
                "a value of another type, as in all spans that have it",
                where=f"{path}:{places[0]}: attribute {excerpt(wanted[name], 60)!r}",
                expected=f"{'' if name == 'phase' else 'a '}{_expected(name)}",
            )
    zero = min(columns["start"])
    for name in ("start", "end"):
        # Whole nanoseconds since 1970 are beyond what a float tells apart.
        columns[f"{name}_s"] = [(at - zero) / 1e9 for at in columns.pop(name)]
    said = shortened(left_out)
    if found.odd.lines:
        said.append(f"{found.odd.lines} lines hold no spans and are passed over")
    for name, places in found.attributes.items():
        many = f"{len(places)} spans have an attribute {excerpt(wanted[name], 60)!r} that is no "
        said.append(f"{many}{_expected(name)}; unknown there, first in line {places[0]}")
    if "node" not in wanted:
        names = ", ".join(map(excerpt, found.services))
        said.append(f"nodes are services: {excerpt(names, 300) or 'unnamed'}")
    if "task" not in wanted:
        said.append(f"tasks are traces, {len(found.tasks)} of them, in order of appearance")
    requests, more = found.served.table(zero)
    provenance = Provenance(
        "recorded",
        "spans of OpenTelemetry",
        f"the services' clocks; 0 = {zero} ns since 1970 (UTC)",
        inputs=hashes([path]),
        warnings=(*said, *more),
    )
    return Recording(provenance, table("spans", columns), requests)


def _without_spans(content: bytes) -> str | None:
    hint = format_hint(content[:4096].decode("utf-8", "replace"))
    return None if hint is None or "import otlp" in hint else hint


def _add(found: _Found, span: Span) -> None:
    place = f"line {span.line}: span {excerpt(span.name, 40)!r}"
    if not span.start_ns:
        found.left_out.append(f"{place} is missing required field `startTimeUnixNano`; left out")
        return
    if not span.end_ns:
        found.left_out.append(f"{place} has no end, it was still open; left out")
        return
    if span.end_ns < span.start_ns:
        back_s = (span.start_ns - span.end_ns) / 1e9
        found.left_out.append(f"{place} ends {back_s:g} s before it begins; left out")
        return
    node = UNKNOWN
    if span.service:
        node = found.services.setdefault(span.service, len(found.services))
    task = found.tasks.setdefault(span.trace, len(found.tasks)) if span.trace else UNKNOWN
    row: dict[str, Any] = {
        "task": task,
        "phase": found.phases.get(span.name, ""),
        "node": node,
        "stage": UNKNOWN,
        "device": UNKNOWN,
        "bytes": float("nan"),
        "name": span.name,
        "start": span.start_ns,
        "end": span.end_ns,
    }
    for name, attribute in found.wanted.items():
        value = span.attributes.get(attribute)
        row[name] = unknown = {"phase": "", "bytes": float("nan")}.get(name, UNKNOWN)
        if value is not None:
            typed = _typed(name, value)
            row[name] = unknown if typed is None else typed
            found.counted[name] += 1
            if typed is None:
                found.attributes.setdefault(name, []).append(str(span.line))
    for name, value in row.items():
        found.columns[name].append(value)
    found.served.add(span, node)


def _typed(name: str, value: Value) -> Value | None:
    """Return an attribute's value in the type of its column, None if it has another one."""
    if name == "phase":
        return value if isinstance(value, str) else None
    if isinstance(value, str):
        # Some writers know texts only.
        if not (value.isascii() and value.isdecimal() and len(value) < 19):
            return None
        value = int(value)
    if not 0 <= value < 2**63:
        return None
    if SPANS[name] == INT:
        return int(value) if value == int(value) else None
    return float(value)


def _expected(name: str) -> str:
    return "text" if name == "phase" else "whole number"
