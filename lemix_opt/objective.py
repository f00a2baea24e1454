"""What a schedule is judged by: a weighted or lexicographic sum of terms, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lemix_opt.checks import floats
from lemix_opt.errors import FieldError, unknown

TERMS = (
    "makespan",
    "inference_response",
    "training_response",
    "late",
    "idle",
    "node_time",
)
"""Names of the terms, as used in `Objective.lexicographic`."""


@dataclass(frozen=True)
class Objective:
    """Weights of the objective's terms; each term is in seconds.

    Parameters
    ----------
    makespan : float, default 0
        Weight of the end of the last operation.
    inference_response, training_response : float, default 0
        Weights of Σ w·response over inference and over training tasks. Response runs from the
        task's own release to the end of its last operation.
    late_penalty_s : float, default 0
        Seconds charged per unit of task weight for every inference task whose response exceeds
        its SLO.
    idle : float, default 0
        Weight of S·node_time − busy GPU seconds.
    node_time : float, default 0
        Weight of Σ over used nodes of (last end − first start).
    lexicographic : tuple of str, default ()
        Terms in order of importance, out of `TERMS`; every named term needs a positive weight and
        every weighted term must be named.

    Raises
    ------
    FieldError
        If a weight is negative or not finite, all are zero, or the order does not fit the weights.
    UnknownNameError
        If `lexicographic` names no known term.
    """

    makespan: float = 0.0
    inference_response: float = 0.0
    training_response: float = 0.0
    late_penalty_s: float = 0.0
    idle: float = 0.0
    node_time: float = 0.0
    lexicographic: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "lexicographic":
                value = float(floats(field.name, getattr(self, field.name), (), minimum=0))
                object.__setattr__(self, field.name, value)
        order = tuple(self.lexicographic)
        object.__setattr__(self, "lexicographic", order)
        weighted = [name for name, weight in self.weights.items() if weight > 0]
        if not weighted:
            raise FieldError("all weights are 0", where="Objective", expected="one positive weight")
        for name in order:
            if name not in TERMS:
                raise unknown("objective term", name, TERMS)
        if order and sorted(order) != sorted(weighted):
            raise FieldError(
                f"order {order} over weighted terms {tuple(weighted)}",
                where="lexicographic",
                expected="every term with a positive weight, once",
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every term by its name in `TERMS`."""
        return {
            "makespan": self.makespan,
            "inference_response": self.inference_response,
            "training_response": self.training_response,
            "late": self.late_penalty_s,
            "idle": self.idle,
            "node_time": self.node_time,
        }

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Terms that are minimised together, in order of importance."""
        if self.lexicographic:
            return tuple((name,) for name in self.lexicographic)
        return (tuple(name for name in TERMS if self.weights[name] > 0),)
