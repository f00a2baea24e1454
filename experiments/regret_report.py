"""What `lemix regret` says: head, windows, and regrets as numbers or as bounds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isinf, isnan
from typing import Any

from experiments.regret import Interval, Window, total

_SAME = 1e-9


def regret_values(head: Mapping[str, str], done: Sequence[Window], windows: int) -> dict[str, Any]:
    """Return everything as plain values, for JSON.

    Parameters
    ----------
    head : mapping of str to str
        What must be said of all windows.
    done : sequence of Window
        Those so far.
    windows : int
        How many there are, also such that are not done.
    """
    return {
        **head,
        "windows done": len(done),
        "windows in all": windows,
        "optimum": _optimum(done),
        "proven optima": sum(w.optimum.proven for w in done),
        "regret": [asdict(row) for row in total([w.rows for w in done])],
        "by window": [asdict(w) for w in done],
    }


def regret_text(head: Mapping[str, str], done: Sequence[Window], windows: int) -> str:
    """Return everything as text; parameters as in `regret_values`."""
    said = {**head, "optimum": _optimum(done)}
    if len(done) < windows:
        said["done"] = f"the first {len(done)} of {windows} windows: all below is of these alone"
    lines = [f"{name:16s} {text}" for name, text in said.items()]
    lines.append(f"\n{'window':>8s}{'tasks':>7s}{'best found':>13s}{'lower bound':>13s}   optimum")
    for w in done:
        best, bound = w.optimum.best_s, w.optimum.bound_s
        low = "unknown" if isinf(bound) else f"{bound:.4f}"
        state = "proven" if w.optimum.proven else "between the two"
        lines.append(f"{w.number:>8d}{w.tasks:>7d}{best:>13.4f}{low:>13s}   {state}")
    lines.append(
        f"\n{'policy':20s}{'J predicted':>13s}{'J true costs':>14s}{'prediction':>12s}"
        f"{'decision':>24s}{'of which online':>24s}   (s of the objective, actual costs)"
    )
    summed = total([w.rows for w in done])
    lines += [
        f"{row.policy:20s}{row.predicted_s:>13.4f}{row.informed_s:>14.4f}"
        f"{row.prediction_s:>+12.4f}{_interval(row.decision_s):>24s}"
        f"{_interval(row.online_s):>24s}"
        for row in summed
    ]
    lines += [f"{row.policy}: {row.outside}" for row in summed if row.outside]
    return "\n".join(lines)


def _optimum(done: Sequence[Window]) -> str:
    if not done:
        return "no window is done"
    proven = sum(w.optimum.proven for w in done)
    if proven == len(done):
        return f"proven in all {proven} windows: regrets against it are exact"
    return (
        f"proven in {proven} of {len(done)} windows: regrets against it lie between what they are "
        "against the best schedules found and against the proven lower bounds"
    )


def _interval(of: Interval) -> str:
    low, high = of
    if isnan(low) or isnan(high):
        return "unknown"
    if isinf(high):
        return f"at least {low:+.4f}"
    return f"{low:+.4f}" if high - low <= _SAME else f"{low:+.4f} to {high:+.4f}"
