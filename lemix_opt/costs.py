"""What every operation takes: seconds on its GPU and bytes it holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, IntArray, arrays_equal, floats
from lemix_opt.errors import FieldError
from lemix_opt.generation import IterationCosts


@dataclass(frozen=True, eq=False)
class Costs:
    """Seconds and bytes per node class, task and stage.

    Predicted costs are what a scheduler believes, actual costs are what happens; both have this
    form.

    Parameters
    ----------
    forward_s : array_like, shape (K, T, S)
        Seconds of the forward, more than 0.
    backward_s : array_like, shape (K, T, S)
        Seconds of the backward; ignored for inference tasks.
    held_bytes : array_like, shape (K, T, S)
        Bytes a task holds on a stage: training from the start of its forward to the end of its
        backward there, inference during its forward.
    resident_bytes : array_like, shape (K, S)
        Bytes that are always taken: weights, and optimizer state where the class trains.
    update_s : array_like, shape (K, S), default 0
        Seconds of the optimizer step, right after the backward on the stage.
    hop_s : array_like, shape (K, T, S-1), default 0
        Seconds from the end of an operation on one stage until its successor on the neighbouring
        stage may start; the entry s lies between stages s and s+1, in both directions.
    all_reduce_s : array_like, shape (K, S), default 0
        Seconds of an all-reduce with the other replicas, right after the update on the stage and
        part of its operation. It blocks the node that trained and no other. LeMix has no such
        step; its replicas are independent.
    iteration : IterationCosts, optional
        What iterations of token generation take. Where requests generate tokens, their own seconds
        above are beliefs of policies only, those of the prefill alone, and their `held_bytes` are
        not read: KV memory follows from tokens.

    Raises
    ------
    FieldError
        If a field has the wrong shape, is not finite or is negative, or a forward is not positive.
    """

    forward_s: FloatArray
    backward_s: FloatArray
    held_bytes: FloatArray
    resident_bytes: FloatArray
    update_s: FloatArray = 0.0  # type: ignore[assignment]
    hop_s: FloatArray = 0.0  # type: ignore[assignment]
    all_reduce_s: FloatArray = 0.0  # type: ignore[assignment]
    iteration: IterationCosts | None = None

    def __post_init__(self) -> None:
        forward = floats("forward_s", self.forward_s, above=0)
        if forward.ndim != 3 or forward.shape[0] < 1 or forward.shape[2] < 1:
            raise FieldError(
                f"shape {forward.shape}",
                where="forward_s",
                expected="(node classes, tasks, stages)",
            )
        k, t, s = forward.shape
        checked = {
            "forward_s": forward,
            "backward_s": floats("backward_s", self.backward_s, (k, t, s), minimum=0),
            "held_bytes": floats("held_bytes", self.held_bytes, (k, t, s), minimum=0),
            "resident_bytes": floats("resident_bytes", self.resident_bytes, (k, s), minimum=0),
            "update_s": floats("update_s", self.update_s, (k, s), minimum=0),
            "hop_s": floats("hop_s", self.hop_s, (k, t, s - 1), minimum=0),
            "all_reduce_s": floats("all_reduce_s", self.all_reduce_s, (k, s), minimum=0),
        }
        for name, array in checked.items():
            object.__setattr__(self, name, array)
        if self.iteration is not None and self.iteration.base_s.shape != (k, s):
            raise FieldError(
                f"shape {self.iteration.base_s.shape}",
                where="iteration.base_s",
                expected=f"shape {(k, s)}: node classes and stages of the other costs",
            )

    @property
    def classes(self) -> int:
        """Number of node classes K."""
        return int(self.forward_s.shape[0])

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return int(self.forward_s.shape[1])

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return int(self.forward_s.shape[2])

    @property
    def closing_s(self) -> FloatArray:
        """Seconds of the update operation, all-reduce included, shape (K, S)."""
        return self.update_s + self.all_reduce_s

    def take(self, tasks: IntArray) -> Costs:
        """Return the costs of the tasks with the given ids, in that order."""
        return Costs(
            forward_s=self.forward_s[:, tasks],
            backward_s=self.backward_s[:, tasks],
            held_bytes=self.held_bytes[:, tasks],
            resident_bytes=self.resident_bytes,
            update_s=self.update_s,
            hop_s=self.hop_s[:, tasks],
            all_reduce_s=self.all_reduce_s,
            iteration=self.iteration,
        )

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def empty_costs(classes: int, stages: int, resident_bytes: FloatArray | float = 0.0) -> Costs:
    """Return costs of no tasks, for instances that have none."""
    none = np.zeros((classes, 0, stages))
    return Costs(none, none, none, resident_bytes)  # type: ignore[arg-type]
