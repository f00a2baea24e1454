"""Time stamps: zones, clocks that were set back, and gaps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from instances.csv_table import number_hint
from instances.recordings.source import shortened
from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.errors import FieldError, FileFormatError, excerpt

GAP = 10.0
"""Steps of so many usual ones count as a gap."""
_HOUR_S = 3600.0
_EPOCH = datetime(1970, 1, 1)
_CORRECTION = timedelta(minutes=15)
_STAMP = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?\s*(Z|[+-]\d\d:?\d\d)?",
    re.ASCII,
)


@dataclass(frozen=True)
class Clock:
    """Time stamps of a file as seconds.

    Parameters
    ----------
    seconds : ndarray, shape (R,)
        Seconds since the first stamp.
    said : str
        Zero and zone, in words.
    """

    seconds: FloatArray
    said: str


def zone_named(name: str) -> ZoneInfo | None:
    """Return a time zone by its IANA name, None for an empty one; others raise `FieldError`."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise FieldError(
            f"{name[:40]!r}", where="zone", expected="an IANA name such as 'Europe/Berlin' or 'UTC'"
        ) from None


def read_stamps(path: str, texts: Sequence[str], lines: Sequence[int], zone: str = "") -> Clock:
    """Read dates with times of day, such as ``2024/05/01 12:00:00.123``.

    Parameters
    ----------
    path : str
        File, for errors.
    texts : sequence of str, length R
        The stamps, in the order of the file; either all of them or none end in an offset.
    lines : sequence of int, length R
        Their lines.
    zone : str, default ""
        IANA name of the zone of stamps without an offset. With it, an hour that daylight saving
        repeats is told apart by the order of the file: what follows a step back is the second
        one. Without it seconds are differences of the local clock, as written.

    Raises
    ------
    FileFormatError
        For what is no date and time, a time of day that the zone skips, or offsets at some stamps
        only.
    FieldError
        If there is no such zone.
    """
    where_from = zone_named(zone)
    moments = np.empty(len(texts), dtype=np.int64)
    offsets: set[bool] = set()
    later, before = 0, None
    for row, text in enumerate(texts):
        place = f"{path}:{lines[row]}"
        naive, nanoseconds, offset = _parse(place, text)
        offsets.add(offset is not None)
        if len(offsets) > 1:
            raise FileFormatError(
                f"time stamp {excerpt(text, 40)!r}",
                where=place,
                expected="an offset from UTC at every stamp or at none",
            )
        if offset is not None:
            naive -= offset
        elif where_from is not None:
            later = _second_time(naive, before, where_from, later)
            before = naive
            naive = _in_utc(place, text, naive, where_from, later)
        whole = naive - _EPOCH
        moments[row] = (whole.days * 86400 + whole.seconds) * 10**9 + nanoseconds
    first = texts[0] if texts else "nothing"
    kind = "UTC" if offsets == {True} else zone or "local time of an unnamed zone"
    seconds = (moments - (moments[0] if len(moments) else 0)) / 1e9
    return Clock(seconds, f"0 = {first.strip()}, {kind}")


def is_stamp(text: str) -> bool:
    """Whether text has the form of a date and time."""
    return _STAMP.fullmatch(text.strip()) is not None


def _parse(place: str, text: str) -> tuple[datetime, int, timedelta | None]:
    """Return date and time, the nanoseconds beyond whole seconds, and the offset from UTC."""
    found = _STAMP.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        naive = datetime(*map(int, found.groups()[:6]))  # type: ignore[arg-type]
        offset = None
        if found[8]:
            digits = found[8].replace(":", "")
            offset = timedelta()
            if digits != "Z":
                offset = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:]))
                offset = -offset if digits[0] == "-" else offset
        # Beyond these years offsets and nanoseconds overflow.
        if not 1970 < naive.year < 2200:
            raise ValueError
    except ValueError:
        raise FileFormatError(
            f"value {excerpt(text, 40)!r}",
            where=place,
            expected="a date and time of this age such as 2024/05/01 12:00:00.123",
            hint=number_hint(text),
        ) from None
    return naive, int((found[7] or "").ljust(9, "0")), offset


def _second_time(naive: datetime, before: datetime | None, zone: ZoneInfo, later: int) -> int:
    """Return 1 in an hour that is repeated, once the clock has gone back in it."""
    first, second = (naive.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    if first == second:
        return 0
    # Smaller steps are corrections of the clock, or rows of two devices.
    return 1 if before is not None and naive < before - _CORRECTION else later


def _in_utc(place: str, text: str, naive: datetime, zone: ZoneInfo, later: int) -> datetime:
    local = naive.replace(tzinfo=zone, fold=later)
    utc = local.astimezone(UTC)
    if utc.astimezone(zone).replace(tzinfo=None) != naive:
        raise FileFormatError(
            f"time stamp {excerpt(text, 40)!r}",
            where=place,
            expected=f"a time that exists in {zone.key}; clocks went forward over it",
        )
    return utc.replace(tzinfo=None)


def odd_steps(
    seconds: FloatArray, lines: Sequence[int] | IntArray, of: str = "", gaps: bool = True
) -> list[str]:
    """Say where a clock went back, or left a gap of more than ten usual steps.

    Parameters
    ----------
    seconds : ndarray, shape (R,)
        Times in the order of the file.
    lines : sequence of int, length R
        Lines of the file.
    of : str, default ""
        What was sampled.
    gaps : bool, default True
        Whether gaps are looked for: only regular samples have them.
    """
    steps = np.diff(seconds)
    forward = steps[steps > 0]
    usual = float(np.median(forward)) if forward.size else 0.0
    gap = np.flatnonzero(steps > GAP * usual).tolist() if gaps and usual else []
    back = [
        _step(lines[row + 1], of, f"goes back by {-steps[row]:g} s", steps[row], usual)
        for row in np.flatnonzero(steps < 0).tolist()
    ]
    ahead = [
        _step(
            lines[row + 1],
            of,
            f"leaves a gap of {steps[row]:g} s, usual are {usual:g} s",
            steps[row],
            usual,
        )
        for row in gap
    ]
    return shortened(back) + shortened(ahead)


def _step(line: int, of: str, said: str, step: float, usual: float) -> str:
    saving = usual < _HOUR_S / 4 and abs(abs(step) - _HOUR_S) <= 2 * usual
    tail = ", as daylight saving does" if saving else ""
    return f"line {line}: the clock{of and f' of {of}'} {said}{tail}"
