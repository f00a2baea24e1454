"""The machines: nodes, each a full model replica on a pipeline of GPUs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, IntArray, arrays_equal, floats, integers, whole
from lemix_opt.errors import FieldError

MOST_GPUS = 2**20
"""GPUs of a cluster; arrays of that size are no burden, and there is no larger one."""


@dataclass(frozen=True, eq=False)
class Cluster:
    """Nodes with one pipeline stage per GPU (or per group of GPUs under tensor parallelism).

    Parameters
    ----------
    nodes : int
        Number of nodes N, at least 1; at most `MOST_GPUS` GPUs with all stages.
    stages : int
        Number of pipeline stages S of every node, at least 1.
    memory_bytes : array_like, shape (N, S)
        Memory capacity of every GPU in bytes; a scalar stands for all.
    node_class : array_like of int, shape (N,), default 0
        Class (GPU type or role) of every node: the first index of the cost arrays.

    Raises
    ------
    FieldError
        If a field has the wrong shape, is not finite or is out of range.
    """

    nodes: int
    stages: int
    memory_bytes: FloatArray
    node_class: IntArray = 0  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", whole("nodes", self.nodes, minimum=1))
        object.__setattr__(self, "stages", whole("stages", self.stages, minimum=1))
        if self.nodes * self.stages > MOST_GPUS:
            raise FieldError(
                f"{self.nodes} nodes of {self.stages} stages",
                where="nodes",
                expected=f"at most {MOST_GPUS} GPUs, nodes times stages",
                hint="Use fewer nodes or stages",
            )
        shape = (self.nodes, self.stages)
        object.__setattr__(
            self, "memory_bytes", floats("memory_bytes", self.memory_bytes, shape, above=0)
        )
        object.__setattr__(
            self, "node_class", integers("node_class", self.node_class, (self.nodes,), minimum=0)
        )

    @property
    def classes(self) -> int:
        """Number of node classes K the costs must cover."""
        return int(np.max(self.node_class)) + 1

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]
