"""The switchable parts of the exact model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from lemix_opt.errors import FieldError, check_keywords


@dataclass(frozen=True)
class Parts:
    """Switches of the exact model.

    None changes what is optimal: parts tighten the relaxation, break ties between equal schedules
    or help the search. All are on by default; which of them pay depends on the instance
    (`docs/exact.md`, `tests/benchmarks/test_exact_parts.py`).

    Parameters
    ----------
    heads : bool
        Windows of starts from a task's chain: heads behind its release, tails before the horizon.
    loop : bool
        Heads and distances of training starts through the closed loop and the memory that earlier
        training holds (`solvers.exact.heads`).
    loads : bool
        Linear rows: the makespan, or a node's span, is at least the load of each of its GPUs.
    head_tail : bool
        Such rows for the tasks with late heads and long tails only.
    area : bool
        Cumulative over the whole cluster per stage: N GPUs.
    energy : bool
        Cumulatives over the whole cluster per stage: the memory, and one large holder per node.
    symmetry : bool
        Identical nodes are opened in order.
    order : bool
        Under FIFO, the literals that order pairs of tasks on all stages are transitive.
    assignment : bool
        One stage and makespan alone: placements without starts, which follow from them.
    placement : bool
        Such placements by HiGHS ahead of CP-SAT.
    tree : bool
        For the makespan of a flow shop, branch and bound over its orders ahead of the model.
    training : bool
        For the makespan, the training tasks alone first: a bound for all, and a schedule that
        requests are inserted into.
    start : bool
        A first schedule by insertion; flow shops by iterated greedy.
    """

    heads: bool = True
    loop: bool = True
    loads: bool = True
    head_tail: bool = True
    area: bool = True
    energy: bool = True
    symmetry: bool = True
    order: bool = True
    assignment: bool = True
    placement: bool = True
    tree: bool = True
    training: bool = True
    start: bool = True

    def __post_init__(self) -> None:
        for name in PARTS:
            if not isinstance(getattr(self, name), bool):
                raise FieldError(
                    f"{getattr(self, name)!r}", where=f"parts.{name}", expected="True or False"
                )


PARTS = tuple(field.name for field in fields(Parts))
"""Names of the parts."""


def chosen(parts: Parts | Mapping[str, bool] | None, switches: Mapping[str, bool]) -> Parts:
    """Return the parts with single switches changed.

    Parameters
    ----------
    parts : Parts or mapping of str to bool, optional
        All switches, or those that differ from the defaults.
    switches : mapping of str to bool
        Further ones that differ.

    Raises
    ------
    UnknownNameError
        For a name that is no part, naming the nearest one.
    """
    base = parts if isinstance(parts, Parts) else Parts()
    changed = {**({} if isinstance(parts, Parts) or parts is None else parts), **switches}
    check_keywords("solver 'cpsat'", changed, ("workers", "parts", *PARTS))
    return replace(base, **changed)
