"""What fits into a GPU's memory together, as rows with small numbers.

HiGHS works in floating point and forgives rows a little, so that bytes by the billion would let
through what does not fit. Which sets of tasks fit is all that matters, and small numbers can say
the same of every set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

LARGEST = 10_000
"""Coefficients up to which HiGHS's tolerances of about 1e-6 stay far below one unit."""
MOST_TASKS = 12
"""Tasks on a GPU up to which all sets of them are looked at."""


@dataclass(frozen=True)
class Row:
    """Σ weight of the tasks that hold memory at a time ≤ limit; `weights` has shape (T,)."""

    weights: tuple[int, ...]
    limit: int


def memory_rows(held: list[int], room: int, *, bound: bool) -> tuple[tuple[Row, ...], bool]:
    """State which tasks fit together.

    Parameters
    ----------
    held : list of int, length T
        What tasks hold. A task that does not even fit alone never runs here, and is left out.
    room : int
        What there is for them, in the same units.
    bound : bool
        Which way to round where rounding cannot be avoided: towards more that fits, or less.

    Returns
    -------
    rows : tuple of Row
        A set of tasks fits if it keeps all of them.
    exact : bool
        Whether that is all that fits and nothing else.
    """
    here = [i for i, h in enumerate(held) if 0 < h <= room]
    amounts = [held[i] for i in here]
    if sum(amounts) <= room:
        return (), True
    unit = math.gcd(*amounts)
    if max(amounts) <= LARGEST * unit:
        return (_row(held, here, [a // unit for a in amounts], room // unit),), True
    if len(here) > MOST_TASKS:
        unit = -(-room // LARGEST)
        if bound:
            return (_row(held, here, [a // unit for a in amounts], -(-room // unit)),), False
        return (_row(held, here, [-(-a // unit) for a in amounts], room // unit),), False
    sets = (np.arange(2 ** len(here))[:, None] >> np.arange(len(here))) & 1
    fits = sets @ np.array(amounts) <= room
    scale = 1
    while scale <= LARGEST:
        weights = [round(a * scale / room) for a in amounts]
        total = sets @ np.array(weights)
        limit = int(total[fits].max())
        if limit < total[~fits].min():
            return (_row(held, here, weights, limit),), True
        scale *= 2
    return tuple(_covers(held, here, amounts, room)), True


def _row(held: list[int], here: list[int], weights: list[int], limit: int) -> Row:
    whole = [0] * len(held)
    for i, weight in zip(here, weights, strict=True):
        whole[i] = weight
    return Row(tuple(whole), limit)


def _covers(held: list[int], here: list[int], amounts: list[int], room: int) -> list[Row]:
    """One row for every smallest set that does not fit: not all of it at once."""
    rows = []
    for size in range(2, len(here) + 1):
        for chosen in combinations(range(len(here)), size):
            total = sum(amounts[k] for k in chosen)
            if total > room and all(total - amounts[k] <= room for k in chosen):
                members = [here[k] for k in chosen]
                rows.append(_row(held, members, [1] * size, size - 1))
    return rows
