"""The curve over measured points of an unseen GPU type, and how it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.tables import read_parquet
from experiments.transfer_report import ALL, curve_rows, curve_text, write_curve
from predictors.model_shapes import model_shape
from predictors.operation_model import OperationTimeModel
from predictors.operation_terms import terms
from predictors.operations import operation_rows
from predictors.transfer import TransferError, shape_points, transfer_curve


def layers(gpu: str, slower: float) -> tuple[np.ndarray, np.ndarray]:
    """Forwards and backwards that take the sum of their terms, times what a GPU is slower by."""
    rows = np.array([1, 2, 3, 4, 6, 8, 12, 16])
    shape = model_shape("opt-350m")
    X = np.concatenate(
        [
            operation_rows(kind, shape, gpu, rows=rows, length=512)
            for kind in ("forward", "backward")
        ]
    )
    return X, slower * terms(X).sum(axis=1)


def test_forward_and_backward_of_a_shape_are_one_point() -> None:
    X, _ = layers("a100-40gb", 1.0)
    assert shape_points(X).tolist() == [*range(8), *range(8)]


def test_measured_points_lead_to_a_slow_type() -> None:
    parts = [layers("a100-40gb", 1.5), layers("h100-80gb", 1.5), layers("v100-16gb", 4.0)]
    X, y = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    gpus = np.repeat(["a100", "h100", "v100"], 16)
    seen: list[tuple[int, int]] = []
    model = OperationTimeModel(trees=3)
    found = transfer_curve(
        model, X, y, gpus, (0, 4, 99), draws=2, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(0, 3), (1, 3), (2, 3)]
    assert [(e.gpu, e.measured, e.draws, e.rows, e.chosen) for e in found] == [
        (gpu, *rest)
        for gpu in ("a100", "h100", "v100")
        for rest in ((0, 1, 16, False), (4, 2, 16, False), (4, 1, 8, True))
    ]
    none, drawn, chosen = (e.mape_pct for e in found if e.gpu == "v100")
    assert drawn < 0.3 * none
    assert chosen < 0.5 * none
    apart = model.set_params(calibrate=False).fit(X[gpus != "v100"], y[gpus != "v100"])
    told = apart.predict(X[gpus == "v100"])
    assert none == pytest.approx(100 * np.mean(np.abs(told / y[gpus == "v100"] - 1)))


def test_rows_text_and_files(tmp_path: Path) -> None:
    errors = [
        TransferError("a", 0, 30.0, 30.0, 30.0, 10, 1),
        TransferError("a", 5, 10.0, 8.0, 12.0, 20, 2),
        TransferError("a", 5, 6.0, 6.0, 6.0, 10, 1, chosen=True),
        TransferError("b", 0, 60.0, 60.0, 60.0, 20, 1),
        TransferError("b", 5, 40.0, 30.0, 50.0, 40, 2),
        TransferError("b", 5, 12.0, 12.0, 12.0, 20, 1, chosen=True),
        TransferError("c", 0, 99.0, 99.0, 99.0, 2, 1),
    ]
    rows = curve_rows(errors)
    both = [row for row in rows if row["gpu"] == ALL]
    assert [row["mape_pct"] for row in both] == pytest.approx([50.0, 30.0, 10.0])
    assert [(row["low_pct"], row["high_pct"]) for row in both] == [(30, 60), (10, 40), (6, 12)]
    assert [row["which"] for row in both] == ["data sheet", "random", "chosen"]
    assert "#####" in curve_text(rows)
    files = write_curve(rows, {"profile": "made up"}, tmp_path / "curve")
    assert files[0].read_text().startswith("profile: made up")
    read, said = read_parquet(files[1])
    assert read == rows
    assert said == {"profile": "made up"}
