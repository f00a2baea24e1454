"""Points in, predictions or the points to measure out: `lemix predict` and `lemix suggest`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from instances.csv_table import csv_rows, number
from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError, FileFormatError, LemixError, check_keywords
from lemix_opt.files import text_content, write_atomically

Value = str | float | bool
Point = dict[str, Value]
OPERATION: Mapping[str, Value] = MappingProxyType(
    {
        "kind": "prefill",
        "model": "",
        "gpu": "",
        "rows": 1.0,
        "length": 1.0,
        "context": 0.0,
        "tensor": 1.0,
        "data": 1.0,
        "pipeline": 1.0,
        "micro_batches": 1.0,
        "sm_share": 1.0,
        "precision": "half",
    }
)
"""What is asked of a model of operations, and what holds where nothing is said."""
HOP: Mapping[str, Value] = MappingProxyType({"sent_bytes": 1.0})
"""What is asked of a model of hops."""
_MAX_BYTES = 2**28
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


def read_points(path: Path, default: Mapping[str, Value]) -> list[Point]:
    """Read points from a CSV with a header; what has no column is as in `default`.

    Raises
    ------
    FileFormatError
        For a file that is no CSV of text, an empty one, or a cell that is not of its column's kind.
    UnknownNameError
        For an unknown column, naming the nearest.
    """
    text = text_content(path, "a CSV with a row per point", _MAX_BYTES)
    found_header, rows = csv_rows(text, path, blank_lines=True)
    header = [name.strip() for name in found_header]
    if not header:
        raise FileFormatError("empty", where=str(path), expected="a header and a row per point")
    check_keywords(f"points in {path}", header, default)
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise FileFormatError(f"{twice!r} twice", where=f"{path}:1", expected="every column once")
    found: list[Point] = []
    for line, cells in rows:
        point: Point = dict(default)
        for name, cell in zip(header, cells, strict=True):
            point[name] = _value(cell, default[name], f"{path}:{line}: {name}")
        found.append(point)
    if not found:
        raise FileFormatError("no rows", where=str(path), expected="a row per point")
    return found


def _value(cell: str, like: Value, where: str) -> Value:
    """Return a cell as what stands for it in the default."""
    if isinstance(like, str):
        return cell.strip()
    if not isinstance(like, bool):
        found = number(cell)
        if not math.isfinite(found):
            raise FileFormatError(f"{cell[:40]!r}", where=where, expected="a finite number")
        return found
    word = cell.strip().lower()
    if word not in (*_YES, *_NO):
        raise FileFormatError(f"{cell!r}", where=where, expected="true or false")
    return word in _YES


def predict_points(
    model: Any, points: Sequence[Point], coverage: float, source: str
) -> list[dict[str, Any]]:
    """Predict every point: seconds, interval and provenance beside what was asked.

    Raises
    ------
    FieldError
        If the model is not one of operations, or a value is out of range, naming the point.
    """
    from predictors.operation_model import LABELS

    X = operations_of(model, points, source)
    labels = [LABELS[at] for at in model.provenance(X)]
    return _answers(model, X, points, coverage, labels)


def suggest_points(
    model: Any, points: Sequence[Point], count: int, source: str
) -> list[dict[str, Any]]:
    """Return the points to measure first on GPU types that are new, the most telling one first.

    All kinds of operation of one shape are one point; seconds are predicted from the data sheet.

    Raises
    ------
    FieldError
        As in `predict_points`; and for more points than `predictors.design` weighs, or a count
        out of range.
    """
    from predictors.design import worth_measuring
    from predictors.transfer import shape_points

    X = operations_of(model, points, source)
    point, seconds = shape_points(X), model.predict(X)
    found = worth_measuring(model.physics_, X, point, count)
    return [
        {"order": order, **points[at], "seconds": float(seconds[at])}
        for order, chosen in enumerate(found, start=1)
        for at in np.flatnonzero(point == chosen).tolist()
    ]


def operations_of(model: Any, points: Sequence[Point], source: str) -> FloatArray:
    """Rows of `predictors.operations` that a model of operations is asked about.

    Raises
    ------
    FieldError
        If it is no such model, or a value is out of range, naming the point.
    """
    from predictors.model_shapes import model_shape
    from predictors.operation_model import OperationTimeModel
    from predictors.operations import operation_rows

    if not isinstance(model, OperationTimeModel):
        raise FieldError(
            type(model).__name__,
            where="saved model",
            expected="one fitted to a profile of operations, such as muxserve-prefill",
        )
    rows = []
    for place, point in enumerate(points, start=1):
        numbers = {k: v for k, v in point.items() if not isinstance(v, str)}
        try:
            shape = model_shape(str(point["model"]))
            row = operation_rows(
                str(point["kind"]),
                shape,
                str(point["gpu"]),
                precision=str(point["precision"]),
                **numbers,
            )
        except LemixError as error:
            raise type(error)(f"point {place} of {source}: {error}") from None
        rows.append(row)
    return np.concatenate(rows)


def predict_hops(
    model: Any, points: Sequence[Point], coverage: float, source: str
) -> list[dict[str, Any]]:
    """Predict every hop: seconds, interval and provenance beside what was asked.

    Raises
    ------
    FieldError
        For a message of less than no bytes, naming the point.
    """
    if model.n_features_in_ != 1:
        raise FieldError(
            f"a model of hops over {model.n_features_in_} columns",
            where="saved model",
            expected="one over the bytes of a message",
        )
    sent = np.array([float(point["sent_bytes"]) for point in points])
    if np.any(sent < 0):
        at = int(np.argmax(sent < 0))
        where = f"point {at + 1} of {source}: sent_bytes"
        raise FieldError(f"{sent[at]:g}", where=where, expected="at least 0 bytes")
    labels = np.where(sent > model.largest_, "extrapolated", "interpolated").tolist()
    return _answers(model, sent[:, None], points, coverage, labels)


def _answers(
    model: Any, X: FloatArray, points: Sequence[Point], coverage: float, labels: Sequence[str]
) -> list[dict[str, Any]]:
    seconds, interval = model.predict(X), model.predict_interval(X, coverage)
    return [
        {
            **point,
            "seconds": float(seconds[at]),
            "low_s": float(interval[at, 0]),
            "high_s": float(interval[at, 1]) if np.isfinite(interval[at, 1]) else None,
            "provenance": labels[at],
        }
        for at, point in enumerate(points)
    ]


def write_predictions(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write predictions as CSV; the file appears whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_atomically(path, text.getvalue().encode())
