"""Events whose times cannot be: stamps far from all others, overlaps within one stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from instances.recordings.chrome import (
    GPU,
    LAUNCH,
    Event,
    left_out,
    microseconds,
    place,
)
from lemix_opt.checks import BoolArray, IntArray

_FAR_NS = 3600 * 10**9
"""No profiler runs for an hour: events so far from all others have a wrong stamp."""
_BEFORE_NS = 10**9
"""Kernels do not begin before their launch, but for clocks that differ a little."""
_GAP = 100
"""Stamps of zero stand for missing ones if the others begin so many of their lengths later."""
_FEW, _SHARE = 2, 0.1
"""Only so many events, or so large a share, are outliers; more of them are how the run was."""
_SLACK_NS = 1000
"""Whole microseconds let spans overlap by one."""


def without_outliers(
    found: list[Event], name: str, said: list[str]
) -> tuple[list[Event], dict[str, Event]]:
    """Leave out the few events whose stamps are far from all others, and say so.

    Parameters
    ----------
    found : list of Event
        All events of a file.
    name : str
        The file.
    said : list of str
        Takes the warning.

    Returns
    -------
    events : list of Event
        The others.
    launches : dict of str to Event
        Launches among them, by correlation.
    """
    start = np.array([event.start for event in found], dtype=np.int64)
    end = np.array([event.end for event in found], dtype=np.int64)
    out = _missing(start, end)
    out[~out] = _far(start[~out], end[~out])
    launches = _launches(found if not out.any() else [found[k] for k in np.flatnonzero(~out)])
    for row, event in enumerate(found):
        launch = launch_of(event, launches) if event.kind == GPU else None
        if launch is not None and event.start < launch.start - _BEFORE_NS:
            out[row] = True
    rows = np.flatnonzero(out).tolist()
    if len(rows) > max(_FEW, _SHARE * len(found)):
        said.append(f"{name}: {len(rows)} events are far from the others, or before their launch")
        return found, _launches(found)
    if rows:
        examples = [
            f"{place(found[k].row, found[k].name)} at {microseconds(found[k].start)} us, "
            f"{microseconds(found[k].end - found[k].start)} us long"
            for k in rows
        ]
        said.append(left_out(name, "time stamps far from all others", examples))
    if not rows:
        return found, launches
    return [event for event, odd in zip(found, out.tolist(), strict=True) if not odd], launches


def _launches(events: Iterable[Event]) -> dict[str, Event]:
    return {event.correlation: event for event in events if event.kind == LAUNCH}


def launch_of(event: Event, launches: Mapping[str, Event]) -> Event | None:
    """Return what launched a kernel; a correlation of 0 stands for none."""
    known = event.kind == GPU and event.correlation not in ("", "0")
    return launches.get(event.correlation) if known else None


def _missing(start: IntArray, end: IntArray) -> BoolArray:
    """Stamps of zero, if all else begins long after."""
    zero = start <= 0
    if not zero.any() or zero.all():
        return np.zeros(len(start), dtype=bool)
    rest = ~zero
    first = int(start[rest].min())
    length = int(end[rest].max()) - first
    far = first - int(end[zero].max()) > _GAP * max(length, 1)
    return zero & far


def _far(start: IntArray, end: IntArray) -> BoolArray:
    """All but the largest group of events without an hour between them, and overlong ones."""
    if not start.size:
        return np.zeros(0, dtype=bool)
    order = np.argsort(start, kind="stable")
    group = np.zeros(len(start), dtype=np.int64)
    group[order[1:]] = np.cumsum(np.diff(start[order]) > _FAR_NS)
    out: BoolArray = group != np.bincount(group).argmax()
    out |= end - start[~out].max() > _FAR_NS
    return out


def overlaps(work: list[tuple[tuple[int, str], Event]], name: str) -> list[str]:
    """Say how many kernels begin before another one of their device and stream has ended."""
    last: dict[tuple[int, str], Event] = {}
    count, worst, example = 0, 0, ""
    for stream, event in sorted(work, key=lambda pair: (pair[1].start, pair[1].end)):
        before = last.get(stream)
        if before is not None and before.end - event.start > _SLACK_NS and event.end > event.start:
            count += 1
            by = before.end - event.start
            if by > worst:
                worst = by
                example = (
                    f"{before.name[:40]!r} on device {stream[0]}, stream {stream[1]} "
                    f"ends {microseconds(by)} us after {event.name[:40]!r} begins"
                )
        if before is None or event.end > before.end:
            last[stream] = event
    if not count:
        return []
    return [
        f"{name}: {count} kernels overlap others of their own stream, the most: {example}. "
        "Their lengths may be wrong"
    ]
