"""Runs in, peak memory out: what `lemix predict` does with a memory model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from experiments.memory_profiles import FMS_MODELS
from experiments.predicting import Point, Value
from lemix_opt.checks import floats
from lemix_opt.errors import FieldError, LemixError

RUN: Mapping[str, Value] = MappingProxyType(
    {
        "model": "",
        "rows": 1.0,
        "length": 1.0,
        "gpus": 1.0,
        "method": "full",
        "weight_bits": 16.0,
        "rank": 0.0,
        "master_bytes": 2.0,
        "checkpointing": True,
        "wide_checkpoints": False,
        "fused_kernels": False,
        "fused_loss": False,
        "accumulation": 1.0,
        "expert_parallel": 1.0,
        "padding": "packed",
    }
)
"""What is asked of a memory model, and what holds where nothing is said; see
`predictors.memory_parts.TrainingRun`."""
_WHOLE = ("rows", "gpus", "rank", "accumulation", "expert_parallel")
GIB = 2.0**30


def known_as(model: str) -> tuple[str, str]:
    """Return the shape's name of a model, and the name its fitted runs have in the table.

    A shape that the table has goes by its runs that are not quantised by GPTQ; one that it has not
    is its own, unknown, group.
    """
    if model and model in FMS_MODELS:
        return FMS_MODELS[model], model
    named = [name for name, shape in FMS_MODELS.items() if shape == model and name]
    plain = [name for name in named if "GPTQ" not in name]
    return model, (plain or named or [model])[0]


def predict_runs(
    model: Any, points: Sequence[Point], coverage: float, quantile: float, source: str
) -> list[dict[str, Any]]:
    """Predict the peak of every run: GiB with interval, upper quantile, and whether it fits.

    Parameters
    ----------
    model : MemoryModel
        Of `lemix fit --profile fms_fine_tuning_a100`.
    points : sequence of dict
        Runs, each with all keys of `RUN`.
    coverage, quantile : float
        Probability of the interval, and of not exceeding the upper quantile.
    source : str
        Where the points come from, for errors.

    Raises
    ------
    FieldError
        For a value out of range, or a model of an unknown shape, naming the point.
    """
    from predictors.memory_parts import PARTS, TrainingRun, training_parts
    from predictors.model_shapes import model_shape
    from predictors.operation_model import LABELS

    floats("quantile", quantile, (), above=0, maximum=1)
    if model.n_features_in_ != len(PARTS):
        raise FieldError(
            f"a memory model over {model.n_features_in_} columns",
            where="saved model",
            expected=f"one over the {len(PARTS)} parts of 'lemix fit'",
        )
    parts, groups = [], []
    for number, point in enumerate(points, start=1):
        shape, group = known_as(str(point["model"]))
        told: dict[str, Any] = {k: v for k, v in point.items() if k != "model"}
        for name in _WHOLE:
            if float(told[name]).is_integer():
                told[name] = int(told[name])
        try:
            parts.append(training_parts(model_shape(shape), TrainingRun(**told)))
        except LemixError as error:
            raise type(error)(f"point {number} of {source}: {error}") from None
        groups.append(group)
    X, names = np.array(parts), np.array(groups)
    peak = model.predict(X)
    interval = model.predict_interval(X, coverage, names)
    upper, label = model.predict_quantile(X, quantile, names), model.provenance(X, names)
    limit = float(model.limit_bytes_)
    return [
        {
            **point,
            "peak_gib": float(peak[at] / GIB),
            "low_gib": float(interval[at, 0] / GIB),
            "high_gib": _gib(interval[at, 1]),
            "upper_gib": _gib(upper[at]),
            "limit_gib": _gib(limit),
            "out_of_memory": bool(peak[at] > limit) if np.isfinite(limit) else None,
            "provenance": LABELS[label[at]],
        }
        for at, point in enumerate(points)
    ]


def _gib(value: float) -> float | None:
    """Return GiB, or None where too few residuals bound the value."""
    return float(value / GIB) if np.isfinite(value) else None
