"""Data objects as lists and numbers, ready for JSON."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

INSTANCE_HEADER: dict[str, Any] = {"format": "lemix-opt instance", "version": 1}
"""What an instance file begins with."""


def columns_to_plain(columns: Any) -> dict[str, Any]:
    """Return the arrays of a data object as lists, by field; parts of it likewise."""
    return {f.name: _plain(getattr(columns, f.name)) for f in fields(columns)}


def _plain(value: Any) -> Any:
    """Return lists and numbers; infinity and NaN, which JSON lacks, become null."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f" or np.isfinite(value).all():
            return value.tolist()
        return [_plain(entry) for entry in value.tolist()]
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if is_dataclass(value):
        return columns_to_plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
