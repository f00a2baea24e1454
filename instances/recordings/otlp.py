"""Spans of OpenTelemetry: OTLP in JSON, whole files or one request a line."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from instances.recordings.source import (
    MAX_BYTES,
    MAX_OBJECTS,
    Source,
    decoded,
    hashes,
    json_content,
    shortened,
)
from lemix_opt.checks import choice
from lemix_opt.errors import FieldError, FileFormatError
from lemix_opt.recording import INT, SPANS, UNKNOWN, Provenance, Recording, table

_FROM_ATTRIBUTES = ("task", "phase", "node", "stage", "device", "bytes")


class _Value(msgspec.Struct, gc=False):
    text: str | None = msgspec.field(default=None, name="stringValue")
    whole: int | str | None = msgspec.field(default=None, name="intValue")
    number: float | None = msgspec.field(default=None, name="doubleValue")


class _Attribute(msgspec.Struct, gc=False):
    key: str
    value: _Value | None = None


class _Span(msgspec.Struct, gc=False):
    start: int | str = msgspec.field(name="startTimeUnixNano")
    end: int | str = msgspec.field(name="endTimeUnixNano")
    name: str = ""
    trace: str = msgspec.field(default="", name="traceId")
    attributes: list[_Attribute] = []


class _Scope(msgspec.Struct):
    spans: list[_Span] = []


class _Resource(msgspec.Struct):
    attributes: list[_Attribute] = []


class _Group(msgspec.Struct):
    resource: _Resource | None = None
    scopes: list[_Scope] = msgspec.field(default=[], name="scopeSpans")


class _Export(msgspec.Struct):
    groups: list[_Group] = msgspec.field(name="resourceSpans")


@dataclass
class _Found:
    columns: dict[str, list[Any]]
    tasks: dict[str, int] = field(default_factory=dict)
    services: dict[str, int] = field(default_factory=dict)
    backwards: list[str] = field(default_factory=list)


def read_otlp(
    path: Source,
    attributes: Mapping[str, str] | None = None,
    phases: Mapping[str, str] | None = None,
    max_bytes: int = MAX_BYTES,
    max_objects: int = MAX_OBJECTS,
) -> Recording:
    """Read spans of an OTLP/JSON export of traces.

    A trace becomes a task and a service a node, numbered as they come, unless attributes tell them.

    Parameters
    ----------
    path : path-like
        ``.json``, or lines of JSON as the collector's file exporter writes them; gzip by the
        ending ``.gz``.
    attributes : mapping of str to str, optional
        Attributes of spans that hold ``task``, ``phase``, ``node``, ``stage``, ``device`` or
        ``bytes``. A span without the attribute is unknown there.
    phases : mapping of str to str, optional
        Phase by the name of a span; a span that is not named has no phase.
    max_bytes, max_objects : int, default 2**28 and 2**21
        Largest content, decompressed, and most JSON objects in it.

    Raises
    ------
    FileFormatError
        Naming file and line, and the field.
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
    found = _Found({n: [] for n in (*_FROM_ATTRIBUTES, "name", "start", "end")})
    for line, export in _exports(content, path):
        for group in export.groups:
            node = _service(group, found)
            for scope in group.scopes:
                for span in scope.spans:
                    _add(found, f"{path}:{line}", span, node, wanted, dict(phases or {}))
    columns = found.columns
    if not columns["start"]:
        raise FileFormatError("no spans", where=str(path), expected="at least one span")
    zero = min(columns["start"])
    for name in ("start", "end"):
        # Whole nanoseconds since 1970 are beyond what a float tells apart.
        columns[f"{name}_s"] = [(at - zero) / 1e9 for at in columns.pop(name)]
    said = shortened(found.backwards)
    if "node" not in wanted:
        said.append(f"nodes are services: {', '.join(found.services)[:300] or 'unnamed'}")
    if "task" not in wanted:
        said.append(f"tasks are traces, {len(found.tasks)} of them, in order of appearance")
    provenance = Provenance(
        "recorded",
        "spans of OpenTelemetry",
        f"the services' clocks; 0 = {zero} ns since 1970 (UTC)",
        inputs=hashes([path]),
        warnings=tuple(said),
    )
    return Recording(provenance, table("spans", columns))


def _exports(content: bytes, path: Source) -> list[tuple[int, _Export]]:
    """Return the requests of the file with the lines at which they begin."""
    first = [line for _, line in islice(_lines(content), 2)]
    # In lines of JSON every line ends what it began; a file laid out by hand does not.
    by_line = len(first) > 1 and all(
        line.startswith(b"{") and line.endswith(b"}") for line in first
    )
    if not by_line:
        return [(1, decoded(content, _Export, path))]
    return [(number, decoded(line, _Export, path, number)) for number, line in _lines(content)]


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty, stripped, with their numbers; one at a time."""
    for number, line in enumerate(io.BytesIO(content), 1):
        if stripped := line.strip():
            yield number, stripped


def _service(group: _Group, found: _Found) -> int:
    for attribute in group.resource.attributes if group.resource else ():
        if attribute.key == "service.name" and attribute.value and attribute.value.text:
            return found.services.setdefault(attribute.value.text, len(found.services))
    return UNKNOWN


def _add(
    found: _Found,
    place: str,
    span: _Span,
    node: int,
    wanted: dict[str, str],
    phases: dict[str, str],
) -> None:
    start, end = (_nanoseconds(place, span, at) for at in (span.start, span.end))
    if end < start:
        text = f"{place}: span {span.name[:40]!r} ends {(start - end) / 1e9:g} s before it begins"
        found.backwards.append(f"{text}; left out")
        return
    task = found.tasks.setdefault(span.trace, len(found.tasks)) if span.trace else UNKNOWN
    row: dict[str, Any] = {
        "task": task,
        "phase": phases.get(span.name, ""),
        "node": node,
        "stage": UNKNOWN,
        "device": UNKNOWN,
        "bytes": float("nan"),
        "name": span.name,
        "start": start,
        "end": end,
    }
    given = {a.key: a.value for a in span.attributes if a.value is not None}
    for name, attribute in wanted.items():
        row[name] = _attribute(place, name, attribute, given.get(attribute))
    for name, value in row.items():
        found.columns[name].append(value)


def _nanoseconds(place: str, span: _Span, at: int | str) -> int:
    digits = str(at) if not isinstance(at, str) else at
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and int(digits) < 2**63):
        raise FileFormatError(
            f"time {digits[:40]!r} of span {span.name[:40]!r}",
            where=place,
            expected="nanoseconds since 1970, as digits",
        )
    return int(digits)


def _attribute(place: str, name: str, attribute: str, value: _Value | None) -> Any:
    """Return an attribute's value in the type of the column; what is not there is unknown."""
    if value is None:
        return {"phase": "", "bytes": float("nan")}.get(name, UNKNOWN)
    if name == "phase":
        if value.text is not None:
            return value.text
    elif value.whole is not None:
        digits = str(value.whole)
        if digits.isascii() and digits.isdecimal() and len(digits) < 19:
            return int(digits) if SPANS[name] == INT else float(digits)
    elif name == "bytes" and value.number is not None and value.number >= 0:
        return value.number
    expected = "text" if name == "phase" else "a whole number"
    raise FileFormatError(
        "a value of another type", where=f"{place}: attribute {attribute!r}", expected=expected
    )
