"""How long fits and predictions of operations take on one core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from predictors.model_shapes import model_shape
from predictors.operation_model import OperationTimeModel
from predictors.operation_terms import terms
from predictors.operations import operation_rows


def measured(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    parts = [
        operation_rows(
            "prefill",
            model_shape(model),
            gpu,
            rows=rng.integers(1, 257, rows // 4),
            length=rng.integers(16, 2049, rows // 4),
        )
        for model in ("llama-7b", "llama-13b")
        for gpu in ("a100-80gb", "h100-80gb")
    ]
    X = np.concatenate(parts)
    return X, 2e-3 + 1.4 * terms(X).sum(axis=1) * np.exp(rng.normal(0, 0.03, len(X)))


@pytest.mark.parametrize("rows", [20_000])
def test_fit(benchmark: Any, rows: int) -> None:
    X, y = measured(rows)
    benchmark.pedantic(OperationTimeModel().fit, (X, y), rounds=3)


@pytest.mark.parametrize("rows", [1_000_000])
def test_predict(benchmark: Any, rows: int) -> None:
    X, y = measured(2000)
    model = OperationTimeModel().fit(X, y)
    benchmark.pedantic(model.predict, (measured(rows)[0],), rounds=3)
