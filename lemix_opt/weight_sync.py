"""Weight synchronisation from nodes that train to nodes that only serve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import floats, integers, whole
from lemix_opt.errors import FieldError, unknown

_PUBLISHED_S = {
    "GPT-400M": {2: 1.13, 4: 1.36, 6: 1.48, 8: 2.17},
    "GPT-1.4B": {2: 2.64, 4: 3.13, 6: 3.56, 8: 3.29},
    "GPT-2.5B": {2: 4.87, 4: 6.22, 6: 7.07, 8: 8.02},
}


@dataclass(frozen=True)
class WeightSync:
    """Serving nodes receive the weights of a node that trains, again and again.

    Trained tasks are counted over all nodes that do not serve. The node that ends every
    `every`-th of them sends its weights as soon as its last stage is free; that stage is taken for
    `seconds`, as in the published code, whose last-stage thread writes the weights and has them
    loaded. Serving nodes go on meanwhile and have the new weights from the end of it. Other nodes
    that train receive nothing. A synchronisation that is still to begin covers what is triggered
    on its node meanwhile.

    Parameters
    ----------
    every : int
        Trained tasks between two synchronisations, at least 1.
    seconds : float
        Seconds of one synchronisation, more than 0.
    serving : tuple of int
        Nodes that receive, at least one.

    Raises
    ------
    FieldError
        If a field is out of range or a node is named twice.
    """

    every: int
    seconds: float
    serving: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", whole("weight_sync.every", self.every, minimum=1))
        seconds = floats("weight_sync.seconds", self.seconds, (), above=0)
        object.__setattr__(self, "seconds", float(seconds))
        if not isinstance(self.serving, Iterable):
            raise FieldError(
                f"{self.serving!r}", where="weight_sync.serving", expected="numbers of nodes"
            )
        nodes = integers("weight_sync.serving", list(self.serving), minimum=0)
        if nodes.ndim != 1 or not nodes.size or np.unique(nodes).size != nodes.size:
            raise FieldError(
                f"{self.serving!r}",
                where="weight_sync.serving",
                expected="at least one node, each named once",
            )
        object.__setattr__(self, "serving", tuple(int(node) for node in nodes))

    def check(self, nodes: int) -> None:
        """Raise `FieldError` unless the cluster has these nodes and one more that trains."""
        if max(self.serving) >= nodes or len(self.serving) == nodes:
            raise FieldError(
                f"{self.serving}",
                where="weight_sync.serving",
                expected=f"nodes below {nodes}, not all of them",
            )


def published_every(training_tasks: int) -> int:
    """Return after how many trained tasks the published LeMix code synchronises."""
    return max(min(100, training_tasks // 2), 1)


def published_seconds(model: str, nodes: int) -> float:
    """Return the seconds of one synchronisation in the published LeMix figures.

    They are read off a drawing, with a precision of about 0.03 s.

    Parameters
    ----------
    model : str
        ``GPT-400M``, ``GPT-1.4B`` or ``GPT-2.5B``.
    nodes : int
        Nodes of the cluster: 2, 4, 6 or 8.

    Raises
    ------
    UnknownNameError
        For another model.
    FieldError
        For another number of nodes, which was not measured.
    """
    if model not in _PUBLISHED_S:
        raise unknown("model", model, list(_PUBLISHED_S))
    by_nodes = _PUBLISHED_S[model]
    if nodes not in by_nodes:
        raise FieldError(
            f"{nodes}", where="nodes", expected=f"one of {', '.join(map(str, by_nodes))}"
        )
    return by_nodes[nodes]
