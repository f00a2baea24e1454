"""Which layers of a model every pipeline stage runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lemix_opt.checks import IntArray, integers, whole
from lemix_opt.errors import FieldError
from predictors.model_shapes import ModelShape


def layers_by_stage(
    shape: ModelShape, stages: int, layers: Sequence[int] | None = None
) -> IntArray:
    """Return the transformer layers of every stage, shape (S,).

    Parameters
    ----------
    shape : ModelShape
        The model.
    stages : int
        Pipeline stages S.
    layers : sequence of int, shape (S,), optional
        Layers of every stage, at least 1 each and all of the model's together. As even as possible
        when omitted: where they do not divide, the first stages have one layer more, since the
        last one also runs the output head.

    Raises
    ------
    FieldError
        If there are more stages than layers, or the given layers are not the model's.
    """
    stages = whole("stages", stages, minimum=1)
    if layers is None:
        if stages > shape.layers:
            raise FieldError(
                f"{stages}",
                where="stages",
                expected=f"at most the {shape.layers} layers of {shape.name}",
            )
        return shape.layers // stages + (np.arange(stages) < shape.layers % stages)
    given = integers("layers", list(layers), (stages,), minimum=1)
    if int(given.sum()) != shape.layers:
        raise FieldError(
            f"{int(given.sum())} layers on {stages} stages",
            where="layers",
            expected=f"the {shape.layers} layers of {shape.name}",
        )
    return given
