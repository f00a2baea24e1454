"""How much two operations that share a GPU slow each other down."""

from __future__ import annotations

from dataclasses import dataclass

from lemix_opt.checks import floats


@dataclass(frozen=True)
class Contention:
    """Slow-down while a forward runs beside another task's backward or update on one GPU.

    What is left of both is stretched by their factors while they overlap, and relaxes when one of
    them ends.

    Parameters
    ----------
    forward, backward : float, default 1
        Factors of at least 1: seconds that one second of work alone takes during the overlap. An
        update counts as backward.

    Raises
    ------
    FieldError
        If a factor is below 1 or not finite.
    """

    forward: float = 1.0
    backward: float = 1.0

    def __post_init__(self) -> None:
        for name in ("forward", "backward"):
            value = floats(f"contention.{name}", getattr(self, name), (), minimum=1)
            object.__setattr__(self, name, float(value))
