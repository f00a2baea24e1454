"""Largest numbers that files may hold: beyond them sums overflow, and no run has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError
from lemix_opt.workload import Workload

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


def within_limits(cluster: Cluster, workload: Workload, costs: Costs) -> None:
    """Refuse parts of an instance out of a file whose numbers are not those of a run.

    Raises
    ------
    FieldError
        Naming the first entry above its limit.
    """
    parts: dict[str, Any] = {"workload": workload, "cluster": cluster, "costs": costs}
    for part, columns in _COLUMNS.items():
        for name, most in columns.items():
            _check(part, name, getattr(parts[part], name), most)


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
