"""Data objects as lists and numbers, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

INSTANCE_HEADER: dict[str, Any] = {"format": "lemix-opt instance", "version": 1}
"""What an instance file begins with."""


def listed(array: npt.NDArray[Any]) -> list[Any]:
    """Return an array as nested lists; infinity and NaN, which JSON lacks, become None."""
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        array = array.astype(object)
        array[~finite] = None
    found: list[Any] = array.tolist()
    return found


def columns_to_plain(
    columns: Any, of_array: Callable[[npt.NDArray[Any]], Any] = listed
) -> dict[str, Any]:
    """Return the arrays of a data object as lists, by field; parts of it likewise.

    With `of_array`, arrays become what it returns.
    """
    return {f.name: _plain(getattr(columns, f.name), of_array) for f in fields(columns)}


def _plain(value: Any, of_array: Callable[[npt.NDArray[Any]], Any]) -> Any:
    if isinstance(value, np.ndarray):
        return of_array(value)
    if isinstance(value, list | tuple):
        return [_plain(entry, of_array) for entry in value]
    if is_dataclass(value):
        return columns_to_plain(value, of_array)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
