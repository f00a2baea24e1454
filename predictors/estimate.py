"""Predicted costs of an instance from a time model and the shape of the served model."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError
from lemix_opt.grid import ticks_up, to_seconds
from lemix_opt.workload import Workload
from predictors.memory import held_bytes, resident_bytes
from predictors.model_shapes import ModelShape

MIB = 2.0**20
BACKWARD_RATIO = 1.99
"""Backward/forward of transformer layers: Sailor, LLAMA-3-8 on A100-40, 3 points, 1.98–2.02."""


class PredictsTime(Protocol):
    """What `estimate_costs` asks of a time model."""

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Predict seconds of a whole-model forward, X holding batch rows and length in tokens."""
        ...


def stage_costs(
    forward_s: FloatArray,
    training: npt.NDArray[np.bool_],
    *,
    stages: int,
    backward_ratio: float,
    held: FloatArray,
    resident: float,
) -> Costs:
    """Split whole-model forwards evenly over the stages; one node class.

    Parameters
    ----------
    forward_s : ndarray, shape (T,)
        Seconds of the whole model's forward.
    training : ndarray of bool, shape (T,)
        Which tasks have a backward.
    stages : int
        Pipeline stages S.
    backward_ratio : float
        Backward / forward of a stage.
    held : ndarray, shape (T,)
        Bytes every task holds on each stage.
    resident : float
        Bytes always taken on each stage.
    """
    each = np.repeat((forward_s / stages)[None, :, None], stages, axis=2)
    backward = backward_ratio * each * training[None, :, None]
    kept = np.repeat(held[None, :, None], stages, axis=2)
    return Costs(each, backward, kept, np.full((1, stages), resident))


def estimate_costs(
    workload: Workload,
    model: PredictsTime,
    shape: ModelShape,
    *,
    stages: int,
    optimizer: str = "gpu",
    backward_ratio: float = BACKWARD_RATIO,
    tick_s: float | None = 0.001,
) -> Costs:
    """Predict the costs of a workload on one node class.

    Seconds are rounded up to whole ticks and bytes up to whole MiB, so that the instance lies on
    the solvers' grid and proofs are exact.

    Parameters
    ----------
    workload : Workload
        T tasks.
    model : PredictsTime
        Fitted time model of the whole model's forward.
    shape : ModelShape
        The served model, for memory.
    stages : int
        Pipeline stages S; the forward is split evenly.
    optimizer : {"none", "host", "gpu"}, default "gpu"
        Where the optimizer's state lives, see `predictors.memory.STATE_BYTES`.
    backward_ratio : float, default 1.99
        Backward / forward (Sailor, LLAMA-3-8 on A100-40, 3 points).
    tick_s : float, optional
        Grid in seconds; None leaves seconds and bytes as predicted.

    Raises
    ------
    FieldError
        If the model predicts a time that is not positive.
    """
    stages = whole("stages", stages, minimum=1)
    ratio = float(floats("backward_ratio", backward_ratio, (), minimum=0))
    training = workload.is_training
    queries = np.column_stack([workload.batch, workload.prompt_tokens]).astype(np.float64)
    forward = model.predict(queries) if workload.tasks else np.zeros(0)
    if forward.size and not np.min(forward) > 0:
        task = int(np.argmin(forward))
        raise FieldError(
            f"{forward[task]} s for batch {queries[task, 0]:g}, length {queries[task, 1]:g}",
            where=f"prediction for task {task}",
            expected="a positive time",
            hint="Fit the time model on more points",
        )
    tokens = workload.batch * workload.prompt_tokens
    costs = stage_costs(
        forward,
        training,
        stages=stages,
        backward_ratio=ratio,
        held=held_bytes(shape, stages, tokens, training),
        resident=resident_bytes(shape, stages, optimizer),
    )
    if tick_s is None:
        return costs
    return Costs(
        to_seconds(ticks_up(costs.forward_s, tick_s), tick_s),
        to_seconds(ticks_up(costs.backward_s, tick_s), tick_s),
        np.ceil(costs.held_bytes / MIB) * MIB,
        np.ceil(costs.resident_bytes / MIB) * MIB,
    )
