"""Largest numbers that files may hold: beyond them sums overflow, and no run has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance

MOST_WEIGHT = 1e12
MOST_S = 1e12
MOST_BYTES = 1e18
_COLUMNS = {
    "workload": {"weight": MOST_WEIGHT},
    "cluster": {"memory_bytes": MOST_BYTES},
    "costs": {
        **dict.fromkeys(("forward_s", "backward_s", "update_s", "hop_s", "all_reduce_s"), MOST_S),
        **dict.fromkeys(("held_bytes", "resident_bytes"), MOST_BYTES),
    },
}


def within_limits(instance: Instance) -> Instance:
    """Return an instance out of a file, if its numbers are those of a run.

    Raises
    ------
    FieldError
        Naming the first entry above its limit.
    """
    for part, columns in _COLUMNS.items():
        for name, most in columns.items():
            _check(part, name, np.asarray(getattr(getattr(instance, part), name)), most)
    return instance


def _check(part: str, name: str, values: Any, most: float) -> None:
    if values.max(initial=0.0) <= most:
        return
    at = tuple(int(i) for i in np.argwhere(values > most)[0])
    unit = "bytes" if "bytes" in name else "seconds" if name.endswith("_s") else "weights"
    raise FieldError(
        f"value {values[at]:g}",
        where=f"{part}.{name}[{', '.join(map(str, at))}]",
        expected=f"at most {most:g}",
        hint=f"Divide all {unit} by one number if only their ratios count"
        if unit == "weights"
        else f"Check that it is in {unit}",
    )
