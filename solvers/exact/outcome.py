"""A run's best schedule and bounds as a `Result`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lemix_opt.result import PROOF_TOLERANCE, Result, Value, relative_gap
from lemix_opt.schedule import Schedule


def outcome(
    schedule: Schedule | None,
    value: Value | None,
    bounds: Sequence[float | None],
    *,
    lexicographic: bool,
    impossible: bool,
    note: str,
    rounding: bool,
    runtime_s: float,
    trajectory: Sequence[tuple[float, float | None, float | None]],
    seed: int,
    parameters: dict[str, Any],
) -> Result:
    """Compare what was found with what was proven, level by level.

    Parameters
    ----------
    bounds : sequence of float or None
        Proven seconds per level, None where unknown.
    impossible : bool
        Whether it is proven that no schedule exists.
    note : str
        Why there is no proof, where there is none.
    rounding : bool
        Whether the schedule is proven best on a grid the instance does not lie on, so that the
        whole gap is due to rounding.
    """
    values: tuple[float, ...] = ()
    if value is not None:
        values = value if isinstance(value, tuple) else (value,)
    # Bounds in floating point may exceed the value by its last bits.
    floor = list(bounds)
    if values:
        floor = [None if b is None else min(b, v) for b, v in zip(bounds, values, strict=True)]
    states, gap = [], None
    for own, low in zip(values, floor, strict=False):
        level_gap = None if low is None else relative_gap(own, low)
        proven = level_gap is not None and level_gap <= PROOF_TOLERANCE
        states.append("optimal" if proven else "feasible")
        if gap is None or gap <= PROOF_TOLERANCE:
            gap = level_gap
    status = "infeasible" if impossible else "unknown"
    if values:
        status = "optimal" if all(state == "optimal" for state in states) else "feasible"
    low_value: Value | None = None
    if not lexicographic:
        low_value = floor[0]
    elif floor[0] is not None:
        low_value = tuple(float("-inf") if b is None else b for b in floor)
    points = list(trajectory)
    if isinstance(value, float) and isinstance(low_value, float):
        points.append((runtime_s, value, low_value))
    return Result(
        status=status,
        schedule=schedule,
        objective=value,
        lower_bound=low_value,
        gap=gap,
        trajectory=tuple(points),
        runtime_s=runtime_s,
        solver="cpsat",
        seed=seed,
        parameters=parameters,
        explanation="" if status == "optimal" else note,
        rounding_gap=values[0] - floor[0] if rounding and values and floor[0] is not None else None,
        level_status=tuple(states) if lexicographic else (),
    )
