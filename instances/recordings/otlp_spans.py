"""Spans as OpenTelemetry's and Jaeger's JSON spell them, one at a time, with what was odd."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from instances.formats import format_hint
from instances.recordings.source import Source, decoded
from lemix_opt.errors import FileFormatError, excerpt

Place = tuple[Source, int]
Fields = dict[str, msgspec.Raw]
Value = str | int | float
_END_NS = 2**63
_LONGEST = 40
_EXPORT = ("resourceSpans", "resource_spans")
_SCOPES = ("scopeSpans", "scope_spans", "instrumentationLibrarySpans")
_OTHER = ("resourceMetrics", "resource_metrics", "resourceLogs", "resource_logs")
_ABSENT = (b"", b"null", b'""')


@dataclass(frozen=True)
class Span:
    """A stretch of time that a service reported; `end_ns` is 0 while it is open."""

    line: int
    trace: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]


@dataclass
class Odd:
    """What was left out, in words."""

    spans: list[str] = field(default_factory=list)
    lines: int = 0
    """Lines without spans: empty objects, metrics, logs."""


def spans_in(content: bytes, path: Source, odd: Odd) -> Iterator[Span]:
    """Yield the spans of a file: an export, lines of them, their parts, or Jaeger's form.

    Raises
    ------
    FileFormatError
        If the file, or a line of it, is no JSON or of another format.
    """
    for line, text, last in _texts(content):
        try:
            parts = decoded(text, msgspec.Raw, path, line)
        except FileFormatError:
            # A program that was killed leaves half a line.
            if not last:
                raise
            odd.spans.append(f"line {line} is cut off: {_shown(text)!r}; left out")
            continue
        found = False
        for part in _list(parts, (path, line)) if text.startswith(b"[") else (parts,):
            entry = _fields(part)
            kind = None if entry is None else _kind(entry)
            if kind is None:
                hint = format_hint(_text(text[:4096]))
                raise FileFormatError(
                    f"JSON without spans: {_shown(text)!r}",
                    where=f"{path}:{line}",
                    expected="an export of traces with resourceSpans, or Jaeger's data",
                    hint=hint,
                )
            found = found or kind != ""
            yield from _of(entry or {}, kind, (path, line), odd)
        odd.lines += not found


def _texts(content: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Yield a file's JSON texts with their lines, and whether one may be cut off."""
    lines = ((n, s) for n, line in enumerate(io.BytesIO(content), 1) if (s := line.strip()))
    first = [entry for _, entry in zip(range(2), lines, strict=False)]
    # In lines of JSON every line ends what it began; a file laid out by hand does not.
    by_line = len(first) > 1 and _closed(first[0][1]) and first[1][1].startswith(b"{")
    if not by_line:
        yield 1, content.strip(), False
        return
    whole, at = content.endswith(b"\n"), 0
    for number, line in enumerate(io.BytesIO(content), 1):
        at += len(line)
        if stripped := line.strip():
            yield number, stripped, at == len(content) and not whole


def _closed(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}")


def _kind(entry: Fields) -> str | None:
    """Return the form of a JSON object, empty for one without spans, None for another format."""
    for names, kind in ((_EXPORT, "export"), (_SCOPES, "group"), (("data",), "jaeger")):
        if any(name in entry for name in names):
            return kind
    if not entry or any(name in entry for name in _OTHER):
        return ""
    if {"traceID", "spans"} <= entry.keys():
        return "jaeger trace"
    return None


def _of(entry: Fields, kind: str | None, place: Place, odd: Odd) -> Iterator[Span]:
    if kind == "export":
        for group in _entries(_get(entry, *_EXPORT), place, odd):
            yield from _group(group, place, odd)
    elif kind == "group":
        yield from _group(entry, place, odd)
    elif kind == "jaeger":
        for trace in _entries(entry.get("data"), place, odd):
            yield from _jaeger(trace, place, odd)
    elif kind == "jaeger trace":
        yield from _jaeger(entry, place, odd)


def _group(group: Fields, place: Place, odd: Odd) -> Iterator[Span]:
    line = place[1]
    resource = _fields(group.get("resource")) or {}
    service = _attributes(resource.get("attributes")).get("service.name", "")
    for scope in _entries(_get(group, *_SCOPES), place, odd):
        for number, span in enumerate(_list(scope.get("spans"), place)):
            try:
                yield _otlp(span, line, str(service))
            except ValueError as error:
                odd.spans.append(f"line {line}: span {number} {error}; left out")


def _otlp(raw: msgspec.Raw, line: int, service: str) -> Span:
    fields = _fields(raw)
    if fields is None:
        raise ValueError("is no JSON object")
    name = _string(fields.get("name"))
    start, end = (
        _nanoseconds(_get(fields, *keys), name)
        for keys in (
            ("startTimeUnixNano", "start_time_unix_nano"),
            ("endTimeUnixNano", "end_time_unix_nano"),
        )
    )
    trace = _id(_string(_get(fields, "traceId", "trace_id")))
    return Span(line, trace, name, service, start, end, _attributes(fields.get("attributes")))


def _jaeger(trace: Fields, place: Place, odd: Odd) -> Iterator[Span]:
    line = place[1]
    processes = _fields(trace.get("processes")) or {}
    for number, raw in enumerate(_list(trace.get("spans"), place)):
        try:
            fields = _fields(raw)
            if fields is None:
                raise ValueError("is no JSON object")
            name = _string(fields.get("operationName"))
            process = _fields(processes.get(_string(fields.get("processID"))))
            process = process or _fields(fields.get("process")) or {}
            # Microseconds since 1970.
            start = _nanoseconds(fields.get("startTime"), name, 1000)
            length = fields.get("duration")
            end = 0 if _absent(length) else start + _nanoseconds(length, name, 1000)
            trace_id = _id(_string(fields.get("traceID")))
            service = _string(process.get("serviceName"))
            yield Span(line, trace_id, name, service, start, end, _tags(fields.get("tags")))
        except ValueError as error:
            odd.spans.append(f"line {line}: span {number} {error}; left out")


def _fields(raw: msgspec.Raw | None) -> Fields | None:
    """Return the fields of a JSON object, None for anything else."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=Fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _list(raw: msgspec.Raw | None, place: Place) -> list[msgspec.Raw]:
    """Return the entries of a list; an absent one and null are empty, all else is refused."""
    if raw is None or _absent(raw):
        return []
    return decoded(bytes(raw), list[msgspec.Raw], *place)


def _entries(raw: msgspec.Raw | None, place: Place, odd: Odd) -> Iterator[Fields]:
    for entry in _list(raw, place):
        fields = _fields(entry)
        if fields is not None:
            yield fields
        elif not _absent(entry):
            odd.spans.append(f"line {place[1]}: {_shown(entry)} is no JSON object; left out")


def _shown(raw: msgspec.Raw | bytes) -> str:
    return excerpt(_text(bytes(raw)[:80]), 40)


def _get(fields: Fields, *names: str) -> msgspec.Raw | None:
    return next((fields[name] for name in names if not _absent(fields.get(name))), None)


def _absent(raw: msgspec.Raw | None) -> bool:
    """Whether a field has the value that ProtoJSON leaves out."""
    return raw is None or bytes(raw).strip() in _ABSENT


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _string(raw: msgspec.Raw | None) -> str:
    """Return a text; what is absent or of another type is empty."""
    try:
        found = "" if raw is None else msgspec.json.decode(raw, type=str | int | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return "" if found is None else str(found)


def _id(text: str) -> str:
    """Return an identifier in one spelling: hexadecimal, or base64 as other writers have it."""
    if len(text) in (12, 24) and text.endswith("="):
        try:
            return base64.b64decode(text, validate=True).hex()
        except binascii.Error:
            return text
    return "" if not text.strip("0") else text.lower()


def _nanoseconds(raw: msgspec.Raw | None, name: str, unit: int = 1) -> int:
    """Return a time, 0 where it is absent; the digits are read as they stand, not as a float."""
    if raw is None or _absent(raw):
        return 0
    text = _text(bytes(raw)).strip().strip('"').strip()
    try:
        if len(text) > _LONGEST or not text.isascii() or "_" in text:
            raise InvalidOperation
        exact = Decimal(text) * unit
        if not (exact.is_finite() and 0 <= exact < _END_NS and exact == int(exact)):
            raise InvalidOperation
        return int(exact)
    except InvalidOperation:
        raise ValueError(
            f"{excerpt(name, 40)!r} has time {excerpt(text, 40)!r}, not whole nanoseconds since "
            "1970 below 2^63, as digits"
        ) from None


def _named_values(raw: msgspec.Raw | None) -> Iterator[Fields]:
    """Yield the entries of a list of attributes; what has another form tells nothing."""
    try:
        entries = [] if raw is None else msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    for entry in entries:
        fields = _fields(entry)
        if fields is not None:
            yield fields


def _attributes(raw: msgspec.Raw | None) -> dict[str, Value]:
    """Return OTLP's attributes that are texts, truths or numbers."""
    found: dict[str, Value] = {}
    for fields in _named_values(raw):
        value = _fields(fields.get("value"))
        for name, entry in (value or {}).items():
            plain = _plain(entry, name.replace("_", "").lower())
            if plain is not None:
                found[_string(fields.get("key"))] = plain
    return found


def _tags(raw: msgspec.Raw | None) -> dict[str, Value]:
    """Return Jaeger's tags in the same form."""
    found: dict[str, Value] = {}
    for fields in _named_values(raw):
        kind = {"int64": "intvalue", "float64": "doublevalue", "bool": "boolvalue"}.get(
            _string(fields.get("type")), "stringvalue"
        )
        plain = _plain(fields.get("value"), kind)
        if plain is not None:
            found[_string(fields.get("key"))] = plain
    return found


def _plain(raw: msgspec.Raw | None, kind: str) -> Value | None:
    """Return a value in Python's type, None for lists, bytes and what is not there."""
    if raw is None:
        return None
    try:
        found: Any = msgspec.json.decode(raw, type=str | int | float | bool | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if found is None or (isinstance(found, str) and kind in ("stringvalue", "bytesvalue")):
        return found if kind == "stringvalue" else None
    if isinstance(found, bool):
        return int(found)
    if not isinstance(found, str):
        return found if kind in ("intvalue", "doublevalue") else str(found)
    # 64-bit numbers and NaN are texts in ProtoJSON.
    plain = found.isascii() and "_" not in found and len(found) <= _LONGEST
    try:
        if kind == "intvalue":
            return int(found) if plain else found
        return float(found) if plain and kind == "doublevalue" else found
    except ValueError:
        return found
