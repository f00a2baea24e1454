"""Compilation ahead of a run, so that no time limit has to pay for it."""

from __future__ import annotations

from functools import lru_cache

from solvers.bounds.front import lower_bound
from solvers.search.warm import OBJECTIVE, smallest


@lru_cache(maxsize=1)
def compile_bounds() -> None:
    """Load the compiled code of the bounds, or compile it; once per process."""
    lower_bound(smallest(), OBJECTIVE, evaluations=1)
