"""Events of Chrome's trace format (JSON), exact to the nanosecond; what is odd is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import msgspec

from instances.recordings.source import Source, decoded, json_content
from lemix_opt.clock import nanoseconds
from lemix_opt.errors import FieldError

GPU, LAUNCH, OPERATOR, ANNOTATION = "gpu", "launch", "operator", "annotation"
_KINDS = {
    **dict.fromkeys(("kernel", "gpu_memcpy", "gpu_memset", "memcpy", "memset"), GPU),
    **dict.fromkeys(("runtime", "driver"), LAUNCH),
    **dict.fromkeys(("cpu_op", "operator"), OPERATOR),
    "user_annotation": ANNOTATION,
}
_NO_WORK = {
    *("ac2g", "async_cpu_to_gpu", "async_gpu", "cpu_instant_event", "cuda_event", "cuda_sync"),
    *("external_correlation", "fwdbwd", "gpu_user_annotation", "memory", "overhead", "python"),
    *("python_function", "trace"),
}
"""Categories that are known and take no time of a device of their own."""
_EARLY = "operator"
_NODE = re.compile(r"\w*Backward\d*")
_ARRAY = re.compile(rb"\s*\[")
_NO_NUMBER = re.compile(
    rb'"(?:[^"\\]|\\.)*"|[-+]?(?:\binf(?:inity)?\b|\bnan\b(?:\(\w*\))?|\b1\.#\w+)',
    re.IGNORECASE | re.DOTALL,
)
_LARGEST_NS = 2**61
"""Beyond any year of now, and differences of ends and starts still fit into 64 bits."""
_EXAMPLES = 3
_CAUSES = (
    ("escape", "A backslash in a name, as paths of Windows have, is written twice in JSON"),
    ("expected ',' or", 'A quote within a name is written as \\" in JSON'),
    ("UTF-8", "A name is in another encoding: convert the file, as with `iconv -f latin1 -t utf8`"),
    ("truncated", "The file is cut off: export the trace again"),
    ("invalid character", "A line break or control character in a name is escaped in JSON"),
)
_UTF_16 = "The file is in UTF-16, as PowerShell writes it: convert it to UTF-8"


class Args(msgspec.Struct, gc=False):
    """What is read of an event's arguments, as it stands in the file."""

    correlation: msgspec.Raw = msgspec.Raw()
    device: msgspec.Raw = msgspec.Raw()
    stream: msgspec.Raw = msgspec.Raw()
    bytes: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct, gc=False):
    ph: str
    name: str = ""
    cat: str | None = None
    ts: msgspec.Raw = msgspec.Raw()
    dur: msgspec.Raw = msgspec.Raw()
    pid: msgspec.Raw = msgspec.Raw()
    tid: msgspec.Raw = msgspec.Raw()
    args: Args | None = None


class _Ranks(msgspec.Struct):
    rank: msgspec.Raw = msgspec.Raw()


class _File(msgspec.Struct):
    events: list[_Event] = msgspec.field(name="traceEvents")
    ranks: _Ranks | None = msgspec.field(default=None, name="distributedInfo")
    base: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="baseTimeNanoseconds")


class _Loose(msgspec.Struct):
    events: list[msgspec.Raw] = msgspec.field(name="traceEvents")
    ranks: _Ranks | None = msgspec.field(default=None, name="distributedInfo")
    base: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="baseTimeNanoseconds")


class Event(msgspec.Struct, gc=False, frozen=True):
    """One event that took time: row in the file, kind, name, nanoseconds, and where it ran.

    Launches and work of a GPU have a correlation, the latter arguments too.
    """

    row: int
    kind: str
    name: str
    start: int
    end: int
    process: str
    thread: str
    correlation: str
    args: Args | None


@dataclass
class Events:
    """What one file says.

    Parameters
    ----------
    name : str
        The file, without folders.
    found : list of Event
        Events of the kinds `GPU`, `LAUNCH`, `OPERATOR` and `ANNOTATION`, in the file's order.
    rank, base_ns : int or None
        Rank, and zero of the clock in nanoseconds since 1970, where recorded.
    said : list of str
        What was left out, and what was not read.
    unread : Counter
        Events by category that this reader does not know.
    odd : list of str
        Events that were left out.
    """

    name: str
    found: list[Event] = field(default_factory=list)
    rank: int | None = None
    base_ns: int | None = None
    said: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)


def text_of(raw: msgspec.Raw) -> str:
    """Return a value as it stands in the file; text without its quotes, ``null`` as nothing."""
    data = bytes(raw)
    return data.decode() if data.isdigit() else _text(data)


# Threads and processes repeat, so that most texts are there already.
@lru_cache(maxsize=4096)
def _text(data: bytes) -> str:
    text = data.decode("utf-8", "replace").strip()
    if text[:1] == '"':
        return text[1:-1]
    return "" if text == "null" else text


def whole_of(raw: msgspec.Raw, below: int = 2**31) -> int | None:
    """Return a whole number from 0 on, also one that was written as text; None for all else."""
    return _whole(bytes(raw), below)


@lru_cache(maxsize=4096)
def _whole(data: bytes, below: int) -> int | None:
    text = _text(data)
    plain = text.isascii() and text.isdigit() and len(text) < 20
    return int(text) if plain and int(text) < below else None


def microseconds(ns: int) -> str:
    """Write nanoseconds as exact microseconds."""
    whole, below = divmod(abs(ns), 1000)
    digits = f".{below:03d}".rstrip("0") if below else ""
    return f"{'-' if ns < 0 else ''}{whole}{digits}"


def left_out(name: str, why: str, rows: Sequence[str]) -> str:
    """Say how many events were left out and why, with the first few of them."""
    more = f", … and {len(rows) - _EXAMPLES} more" if len(rows) > _EXAMPLES else ""
    events = "1 event" if len(rows) == 1 else f"{len(rows)} events"
    return f"{name}: {events} left out, {why}: {'; '.join(rows[:_EXAMPLES])}{more}"


def place(row: int, name: str) -> str:
    """Name an event by its row in the file."""
    return f"traceEvents[{row}] {name[:40]!r}"


def read_events(path: Source, expected: str, max_bytes: int, max_objects: int) -> Events:
    """Read one file; bare arrays of events and begin/end pairs are read as well.

    Parameters
    ----------
    path : path-like
        ``.json`` or ``.json.gz``.
    expected : str
        What it should be, for errors.
    max_bytes, max_objects : int
        Largest content, decompressed, and most JSON objects in it.

    Raises
    ------
    FileFormatError
        For what is no JSON or no trace, naming file and line.
    """
    made = Events(Path(path).name)
    events = _decoded(path, json_content(path, expected, max_bytes, max_objects), made)
    begins: list[tuple[int, _Event]] = []
    asynchronous = 0
    for row, event in enumerate(events):
        if event is None:
            continue
        if event.ph == "X":
            start, length = _ns(event.ts), _ns(event.dur)
            if start is None or length is None or length < 0:
                made.odd.append(
                    f"{place(row, event.name)} has ts {text_of(event.ts)[:40] or 'missing'}, "
                    f"dur {text_of(event.dur)[:40] or 'missing'}"
                )
            else:
                _add(made, row, event, start, start + length)
        elif event.ph in ("B", "E"):
            begins.append((row, event))
        asynchronous += event.ph in ("b", "e")
    if begins:
        _add_pairs(made, begins)
        made.found.sort(key=lambda event: event.row)
    if asynchronous:
        made.unread["asynchronous (ph b, e)"] = asynchronous
    if made.odd:
        why = "times that cannot be"
        made.said.append(left_out(made.name, why, made.odd))
    if made.unread:
        kinds = ", ".join(f"{count} {kind[:40]}" for kind, count in made.unread.most_common(10))
        made.said.append(f"{made.name}: not read, of unknown category: {kinds}")
    return made


def _decoded(path: Source, content: bytes, made: Events) -> Sequence[_Event | None]:
    """Decode the file at once; if that fails, event by event: None for what is none."""
    array = _ARRAY.match(content) is not None
    try:
        if array:
            return msgspec.json.decode(content, type=list[_Event])
        file = msgspec.json.decode(content, type=_File)
        _head(made, file)
        return file.events
    except msgspec.ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        cause = _UTF_16 if content[:2] in (b"\xff\xfe", b"\xfe\xff") else _cause(str(error))
        content, count = _with_nulls(content)
        if not count:
            decoded(content, list[_Event] if array else _File, path, hint=cause)
        numbers = "1 value" if count == 1 else f"{count} values"
        made.said.append(f"{made.name}: {numbers} that JSON lacks, such as inf: not recorded")
    if array:
        rows = decoded(content, list[msgspec.Raw], path)
    else:
        loose = decoded(content, _Loose, path)
        _head(made, loose)
        rows = loose.events
    found: list[_Event | None] = []
    for row, raw in enumerate(rows):
        try:
            found.append(msgspec.json.decode(raw, type=_Event))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            said = f"{error}".replace("`$", f"`$.traceEvents[{row}]")
            made.odd.append(said if "`$" in said else f"traceEvents[{row}]: {said}")
            found.append(None)
    return found


def _head(made: Events, file: _File | _Loose) -> None:
    written = msgspec.Raw() if file.ranks is None else file.ranks.rank
    made.rank = whole_of(written)
    if made.rank is None and text_of(written):
        made.said.append(f"{made.name}: rank {text_of(written)[:40]} is none")
    made.base_ns = whole_of(file.base, 2**62)


def _cause(message: str) -> str:
    return next((cause for part, cause in _CAUSES if part in message), "")


def _with_nulls(content: bytes) -> tuple[bytes, int]:
    """Put null for what some writers print for numbers that JSON lacks, outside of text."""
    count = 0

    def put(match: re.Match[bytes]) -> bytes:
        nonlocal count
        if match[0][:1] == b'"':
            return match[0]
        count += 1
        return b"null"

    return _NO_NUMBER.sub(put, content), count


def _ns(raw: msgspec.Raw) -> int | None:
    """Return microseconds of the file in whole nanoseconds; None for what is no such number."""
    whole, point, below = bytes(raw).partition(b".")
    # Decimals say the same of the usual forms, in four times the time.
    if whole.isdigit() and len(whole) < 20 and len(below) < 4 and (below.isdigit() or not point):
        found = int(whole) * 1000 + int(below.ljust(3, b"0"))
    else:
        try:
            found = nanoseconds(text_of(raw), "us")
        except FieldError:
            return None
    return found if abs(found) < _LARGEST_NS else None


@lru_cache(maxsize=256)
def _kind(category: str) -> str | None:
    """Return the kind of a category, empty for one without work, None for an unknown one."""
    low = category.lower()
    if low.endswith(("_runtime", "_driver")):
        return LAUNCH
    return "" if low in _NO_WORK else _KINDS.get(low)


def _add(made: Events, row: int, event: _Event, start: int, end: int) -> None:
    category = event.cat or ""
    kind = _kind(category)
    if kind is None:
        made.unread[category or "without category"] += 1
    elif kind:
        # Early versions had one category for operators and annotations.
        early = category.lower() == _EARLY and "::" not in event.name
        if early and not _NODE.fullmatch(event.name):
            kind = ANNOTATION
        args = event.args if kind in (GPU, LAUNCH) else None
        made.found.append(
            Event(
                row,
                kind,
                event.name,
                start,
                end,
                _text(bytes(event.pid)),
                _text(bytes(event.tid)),
                text_of(args.correlation) if args is not None else "",
                args if kind == GPU else None,
            )
        )


def _add_pairs(made: Events, events: list[tuple[int, _Event]]) -> None:
    """Join begins and ends: the last begin of a thread that is open takes the next end."""
    timed = [(_ns(event.ts), row, event) for row, event in events]
    made.odd += [f"{place(row, e.name)} has no ts" for ts, row, e in timed if ts is None]
    left = sorted(
        [(ts, row, e) for ts, row, e in timed if ts is not None], key=lambda t: (t[0], t[1])
    )
    # Ends of some writers name another process than their begins.
    for by_process in (True, False):
        opened: dict[tuple[str, str], list[tuple[int, int, _Event]]] = {}
        alone = []
        for ts, row, event in left:
            thread = text_of(event.pid) if by_process else "", text_of(event.tid)
            stack = opened.setdefault(thread, [])
            if event.ph == "B":
                stack.append((ts, row, event))
            elif stack:
                start, begun, first = stack.pop()
                _add(made, begun, first, start, ts)
            else:
                alone.append((ts, row, event))
        left = sorted(
            [*alone, *(b for stack in opened.values() for b in stack)], key=lambda t: t[:2]
        )
    if left:
        rows = [
            f"{place(row, event.name)} {'never ends' if event.ph == 'B' else 'never begins'}"
            for _, row, event in left
        ]
        made.said.append(left_out(made.name, "begin or end (ph B, E) without the other", rows))
