"""What clocks and counters said of a run: timelines without a model of the machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import choice
from lemix_opt.errors import FieldError, suggest
from lemix_opt.table import Table

TRUTHS = ("recorded", "profile", "synthetic")

TEXT, INT, FLOAT = "text", "int", "float"
SPANS = {
    "task": INT,
    "phase": TEXT,
    "name": TEXT,
    "node": INT,
    "stage": INT,
    "device": INT,
    "start_s": FLOAT,
    "end_s": FLOAT,
    "bytes": FLOAT,
}
"""Columns of what took time. Phases of operations are named as in `lemix_opt.schedule.PHASES`."""
REQUESTS = {
    "request": TEXT,
    "node": INT,
    "prompt_tokens": INT,
    "output_tokens": INT,
    "queued_s": FLOAT,
    "scheduled_s": FLOAT,
    "first_token_s": FLOAT,
    "last_token_s": FLOAT,
}
"""Columns of requests that were served."""
SAMPLES = {"time_s": FLOAT, "node": INT, "device": INT, "metric": TEXT, "value": FLOAT}
"""Columns of counters; the metric's name ends in its unit."""
LAYOUTS = {"spans": SPANS, "requests": REQUESTS, "samples": SAMPLES}
UNKNOWN = -1
"""Stands in integer columns for what was not recorded; in float columns NaN does."""
_UNITS = {"bytes": "bytes", "prompt_tokens": "tokens", "output_tokens": "tokens"}
_TYPES: dict[str, Any] = {TEXT: object, INT: np.int64, FLOAT: np.float64}


@dataclass(frozen=True)
class Provenance:
    """Where numbers come from.

    Parameters
    ----------
    truth : {"recorded", "profile", "synthetic"}
        Only a run that happened is ``recorded``.
    source : str
        What was run or computed, and what is assumed, in words.
    clock : str, default ""
        What the seconds were read from, where their zero lies, and in which time zone.
    tools : mapping of str to str
        Versions of the programs that made the numbers.
    inputs : mapping of str to str
        SHA-256 of every file that was read, by its name without folders.
    warnings : tuple of str, default ()
        What was odd: jumps of clocks, gaps, rows that were left out.
    """

    truth: str
    source: str
    clock: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choice("truth", self.truth, TRUTHS)


def table(name: str, columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> Table:
    """Build one of the tables of a recording; a column left out is unknown, text empty.

    Parameters
    ----------
    name : {"spans", "requests", "samples"}
        Which one.
    columns : mapping of str to sequence
        Values by column, all of one length.

    Raises
    ------
    FieldError
        For an unknown column, other types than the layout's, or columns of unequal length.
    """
    layout = LAYOUTS[choice("table", name, tuple(LAYOUTS))]
    rows = len(next(iter(columns.values()))) if columns else 0
    for column in columns:
        if column not in layout:
            raise FieldError(f"unknown column {column!r}", where=name, hint=suggest(column, layout))
    made: dict[str, npt.NDArray[Any]] = {}
    for column, kind in layout.items():
        unknown: Any = {TEXT: "", INT: UNKNOWN, FLOAT: np.nan}[kind]
        made[column] = _typed(f"{name}.{column}", columns.get(column, [unknown] * rows), kind)
    units = {c: _UNITS.get(c, "s" if c.endswith("_s") else "") for c in layout}
    return Table(name, made, {c: unit for c, unit in units.items() if unit})


def _typed(where: str, values: Sequence[Any] | npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """Return a read-only column of the layout's type; nothing is rounded or cut."""
    if kind == TEXT:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        wrong = [row for row, value in enumerate(array.tolist()) if not isinstance(value, str)]
    else:
        given = np.asarray(values)
        whole = given.dtype.kind in ("iu" if kind == INT else "iuf")
        if given.ndim != 1 or not (whole or given.size == 0):
            raise FieldError(
                f"entries of type {given.dtype}",
                where=where,
                expected="whole numbers" if kind == INT else "numbers",
            )
        array = given.astype(_TYPES[kind])
        wrong = np.flatnonzero(np.isinf(array)).tolist() if kind == FLOAT else []
    if wrong:
        expected = "text" if kind == TEXT else "a finite number, or NaN for unknown"
        raise FieldError(f"{array[wrong[0]]!r}", where=f"{where}[{wrong[0]}]", expected=expected)
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Recording:
    """Timelines of a run; tables that were not recorded have no rows.

    Parameters
    ----------
    provenance : Provenance
        Where the numbers come from.
    spans : Table
        What took time, with the columns of `SPANS`: an operation of a task (−1: of none) on a
        stage of a node, its seconds, and its bytes where they were measured.
    requests : Table
        Requests that were served, with the columns of `REQUESTS`.
    samples : Table
        Counters by time, with the columns of `SAMPLES`.

    Raises
    ------
    FieldError
        If a table has other columns, or something ends before it starts.
    """

    provenance: Provenance
    spans: Table = field(default_factory=lambda: table("spans", {}))
    requests: Table = field(default_factory=lambda: table("requests", {}))
    samples: Table = field(default_factory=lambda: table("samples", {}))

    def __post_init__(self) -> None:
        for name, layout in LAYOUTS.items():
            found = getattr(self, name)
            kinds = {column: found[column].dtype for column in found}
            if kinds != {column: np.dtype(_TYPES[kind]) for column, kind in layout.items()}:
                raise FieldError(
                    f"columns {', '.join(kinds) or 'none'}",
                    where=name,
                    expected=f"a table of recording.table: {', '.join(layout)}",
                )
        back = np.flatnonzero(~(self.spans["end_s"] >= self.spans["start_s"]))
        if back.size:
            row = int(back[0])
            start, end = self.spans["start_s"][row], self.spans["end_s"][row]
            raise FieldError(
                f"end {end:g} s",
                where=f"spans.end_s[{row}]",
                expected=f"at least its start, {start:g} s",
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Recording)
            and self.provenance == other.provenance
            and all(_same(getattr(self, name), getattr(other, name)) for name in LAYOUTS)
        )

    __hash__ = None  # type: ignore[assignment]


def _same(left: Table, right: Table) -> bool:
    return all(np.array_equal(left[c], right[c], equal_nan=left[c].dtype.kind == "f") for c in left)
