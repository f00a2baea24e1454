"""Benchmarks over seeds: proofs, median gaps and shifted geometric means per cell and solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from instances.benchmarks.best_known import SAME
from lemix_opt.percentile import percentile

SHIFT_S = 1.0
"""Shift of the geometric mean of times."""


def shifted_geometric_mean(seconds: Sequence[float], shift_s: float = SHIFT_S) -> float:
    """exp(mean(log(t + shift))) − shift, in seconds; NaN without times.

    The shift keeps very short times from ruling the mean (T. Achterberg, "Constraint Integer
    Programming", 2007, appendix A).
    """
    if not seconds:
        return float("nan")
    return float(np.exp(np.mean(np.log(np.asarray(seconds) + shift_s))) - shift_s)


def _groups(rows: Sequence[dict[str, Any]]) -> Any:
    """Yield cell, solver and rows: every cell, and all cells where there is more than one."""
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    for cell in [*cells, "all"] if len(cells) > 1 else cells:
        for solver in dict.fromkeys(row["solver"] for row in rows):
            part = [r for r in rows if r["solver"] == solver and cell in (r["cell"], "all")]
            yield cell, solver, part


def summarised(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what solvers found, one row per cell and solver.

    Parameters
    ----------
    rows : sequence of dict
        One row per instance and solver.
    """
    found = []
    for cell, solver, part in _groups(rows):
        above = [r["above_best"] for r in part if r["above_best"] is not None]
        # No objective is below 0, so that a schedule without a bound has this gap at most.
        gaps = [1.0 if r["gap"] is None else r["gap"] for r in part if r["proves"]]
        found.append(
            {
                "cell": cell,
                "solver": solver,
                "instances": len(part),
                "solved": sum(r["objective_s"] is not None for r in part),
                "proven": sum(r["status"] == "optimal" for r in part),
                "median_gap": percentile(gaps, 50) if gaps else None,
                "compared": len(above),
                "median_above_best": percentile(above, 50) if above else None,
                "reached_best": sum(a <= SAME for a in above),
                "beat_best": sum(a < -SAME for a in above),
            }
        )
    return found


def times_summarised(times: Sequence[dict[str, Any]], limit_s: float) -> list[dict[str, Any]]:
    """Return how long proofs took, one row per cell and solver.

    Parameters
    ----------
    times : sequence of dict
        One row per instance and solver.
    limit_s : float
        Time limit, which instances count with that are not proven.
    """
    found = []
    for cell, solver, part in _groups(times):
        # A proof may end a moment after the limit, which all unproven instances count with.
        taken = [
            limit_s if r["optimal_after_s"] is None else min(r["optimal_after_s"], limit_s)
            for r in part
            if r["proves"]
        ]
        found.append(
            {
                "cell": cell,
                "solver": solver,
                "instances": len(part),
                "proven": sum(r["optimal_after_s"] is not None for r in part),
                "geometric_mean_s": shifted_geometric_mean(taken) if taken else None,
                "wall_s": float(sum(r["wall_s"] for r in part)),
            }
        )
    return found
