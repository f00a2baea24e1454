"""Exact sums of floats that grow and shrink, in compiled code: what `math.fsum` does, kept."""

from __future__ import annotations

from typing import Any

from lemix_opt.engine.jit import inlined

PARTIALS = 2100
"""Room for the partials of one sum: more than there are bits between the largest and the smallest
float, of which no two partials share one."""


@inlined
def add(partials: Any, count: int, term: float) -> int:
    """Add a term, or take one away that is in the sum; return the new number of partials.

    The sum is that of the partials, without rounding: floats of growing size that overlap in no
    bit (Shewchuk 1997, Grow-Expansion).
    """
    kept = 0
    for at in range(count):
        other = partials[at]
        large, small = (term, other) if abs(term) >= abs(other) else (other, term)
        term = large + small
        rest = small - (term - large)
        if rest != 0.0:
            partials[kept] = rest
            kept += 1
    if term != 0.0:
        partials[kept] = term
        kept += 1
    return kept


@inlined
def rounded(partials: Any, count: int) -> float:
    """Return the float nearest to the sum, ties to even, as `math.fsum` does."""
    if count == 0:
        return 0.0
    at = count - 1
    total, rest = partials[at], 0.0
    while at > 0:
        at -= 1
        large = total
        total = large + partials[at]
        rest = partials[at] - (total - large)
        if rest != 0.0:
            break
    # Half way between two floats, what is smaller still decides.
    if at > 0 and (
        (rest < 0.0 and partials[at - 1] < 0.0) or (rest > 0.0 and partials[at - 1] > 0.0)
    ):
        twice = 2.0 * rest
        moved = total + twice
        if twice == moved - total:
            total = moved
    return total
