"""Bytes on a GPU while tasks are scheduled: what is always there, and what a task holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray, choice
from predictors.model_shapes import ModelShape
from predictors.stages import layers_by_stage

STATE_BYTES = {"none": 2.0, "host": 4.0, "gpu": 16.0}
"""Bytes per parameter by where the optimizer lives: weights alone; weights and gradients with
the optimizer in host memory; mixed-precision Adam (Rajbhandari et al. 2020, section 3.1)."""

_ACTIVATION_BYTES = 34.0
"""Per token, hidden unit and layer, without the attention matrix, which memory-efficient kernels
do not store (Korthikanti et al. 2022, equation 2, with its s² term left out)."""


def resident_bytes(
    shape: ModelShape, stages: int, optimizer: str, layers: Sequence[int] | None = None
) -> FloatArray:
    """Bytes of weights and training state on every stage, shape (S,).

    The first stage also holds the token embedding and the last one the output head, where the
    shape knows them; what else the model has is spread over its layers. A tied head is counted
    once, with the embedding.

    Parameters
    ----------
    shape : ModelShape
        The model.
    stages : int
        Pipeline stages S.
    optimizer : {"none", "host", "gpu"}
        Where the optimizer's state lives, see `STATE_BYTES`.
    layers : sequence of int, shape (S,), optional
        Layers of every stage, see `predictors.stages.layers_by_stage`.
    """
    choice("optimizer", optimizer, tuple(STATE_BYTES))
    share = layers_by_stage(shape, stages, layers) / shape.layers
    parameters = share * (shape.parameters - shape.embedding_parameters - shape.head_parameters)
    parameters[0] += shape.embedding_parameters
    parameters[-1] += shape.head_parameters
    return np.asarray(STATE_BYTES[optimizer] * parameters)


def held_bytes(
    shape: ModelShape,
    stages: int,
    tokens: IntArray,
    training: BoolArray,
    layers: Sequence[int] | None = None,
) -> FloatArray:
    """Bytes every task holds on every stage, shape (T, S).

    Training holds the activations of the stage's layers; inference holds keys and values of the
    stage's layers and the working set of one layer (hidden state in and out, MLP), at 2 bytes a
    number.

    Parameters
    ----------
    shape : ModelShape
        The model.
    stages : int
        Pipeline stages S.
    tokens : ndarray of int, shape (T,)
        Rows times length of every task.
    training : ndarray of bool, shape (T,)
        Which tasks train.
    layers : sequence of int, shape (S,), optional
        Layers of every stage, see `predictors.stages.layers_by_stage`.
    """
    own = layers_by_stage(shape, stages, layers)
    kept = _ACTIVATION_BYTES * shape.hidden * own
    served = shape.kv_bytes_per_token * own / shape.layers
    served = served + 2.0 * (2 * shape.hidden + shape.intermediate)
    return np.asarray(np.where(training[:, None], kept, served) * tokens[:, None])
