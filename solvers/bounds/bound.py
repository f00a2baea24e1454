"""A lower bound with its certificate."""

from __future__ import annotations

from dataclasses import dataclass, field

from lemix_opt.checks import FloatArray


@dataclass(frozen=True)
class Bound:
    """A proven lower bound of an objective (of its first level, when lexicographic).

    Parameters
    ----------
    seconds : float
        The bound.
    name : str
        Which bound it is.
    explanation : str
        How it is known, for a reader.
    multipliers : dict of str to ndarray
        What it can be computed from again: prices per class, stage and tick for ``lagrangian``
        (and per group for ``anchored lagrangian``), per task for ``columns``, and the stage and
        the beginnings of bursts for ``assignment``.
    """

    seconds: float
    name: str
    explanation: str
    multipliers: dict[str, FloatArray] = field(default_factory=dict, compare=False)
