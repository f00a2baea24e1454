"""What the next iteration of a running batch takes, by what it holds."""

from __future__ import annotations

from typing import Any

from lemix_opt.engine.batches import (
    BASE,
    CONTEXT,
    DECODES,
    MIXED_CONTEXT,
    MIXED_DECODE,
    PAIRS,
    PER_CONTEXT,
    PER_DECODE,
    PER_PAIR,
    PER_TOKEN,
    TOKENS,
    Batches,
)
from lemix_opt.engine.books import Rules
from lemix_opt.engine.jit import inlined


@inlined
def place_on_curve(knots: Any, tokens: float) -> int:
    """Return the knot before a number of tokens, at most the last but one, at least the first."""
    low, high = 0, knots.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if knots[middle] <= tokens:
            low = middle
        else:
            high = middle
    return low


@inlined
def on_curve(knots: Any, curve: Any, kind: int, stage: int, at: int, tokens: float) -> float:
    """Return the seconds of the curve over new tokens."""
    low = float(curve[kind, stage, at])
    if at + 1 >= knots.size or tokens <= knots[0]:
        return low
    share = (tokens - knots[at]) / (knots[at + 1] - knots[at])
    return max(low + share * (curve[kind, stage, at + 1] - low), 0.0)


@inlined
def set_seconds(batches: Batches, rules: Rules, kind: int, node: int) -> None:
    """Write what the node's next iteration takes to the columns of forwards."""
    counts = batches.counts
    tokens, pairs = float(counts[node, TOKENS]), float(counts[node, PAIRS])
    decodes, context = float(counts[node, DECODES]), float(counts[node, CONTEXT])
    new = tokens + decodes
    mixed = 1.0 if tokens > 0 else 0.0
    for side in range(2):
        by = batches.seconds_expected if side == 0 else batches.seconds_actual
        column = batches.forward_expected_s if side == 0 else batches.forward_actual_s
        knots = batches.knots_expected if side == 0 else batches.knots_actual
        curve = batches.curve_expected if side == 0 else batches.curve_actual
        at = place_on_curve(knots, new)
        for s in range(rules.stages):
            seconds = (
                by[kind, s, BASE]
                + by[kind, s, PER_TOKEN] * tokens
                + by[kind, s, PER_PAIR] * pairs
                + by[kind, s, PER_DECODE] * decodes
                + by[kind, s, PER_CONTEXT] * context
                + by[kind, s, MIXED_DECODE] * mixed * decodes
                + by[kind, s, MIXED_CONTEXT] * mixed * context
            )
            if knots.size:
                seconds += on_curve(knots, curve, kind, s, at, new)
            column[kind, rules.tasks + node, s] = seconds
