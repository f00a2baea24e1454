"""Operations as numbers: what is done, on which model and batch, and on which GPUs.

An operation is one row of columns (`COLUMNS`): what is done, the shape of the model, the batch,
how it is spread over GPUs, and the GPU's data sheet.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError, check_keywords, unknown
from predictors.gpus import gpu_type
from predictors.model_shapes import ModelShape

KINDS = ("prefill", "decode", "forward", "backward", "update", "iteration")
"""What an operation can be. A prefill with cached tokens is a chunk of a longer one; forward,
backward and update are those of training, an iteration is all of them for a global batch."""

COLUMNS = (
    "kind",
    "layers",
    "layer_parameters",
    "head_parameters",
    "hidden",
    "heads",
    "kv_share",
    "rows",
    "length",
    "context",
    "tensor",
    "data",
    "pipeline",
    "micro_batches",
    "recompute",
    "sharded",
    "sm_share",
    "number_bytes",
    "flops",
    "bandwidth",
    "link",
    "sms",
    "memory",
)
"""Columns of a row: kind as its index in `KINDS`; layers of the whole model and parameters of one
of them and of the output head (0 where it is not run); width, attention heads, key/value heads per
head; rows of a (micro-)batch, new tokens per row, cached tokens per row; tensor, data and pipeline
parallel GPUs; micro-batches of one iteration and replica; whether the backward recomputes the
forward, whether data-parallel replicas share the parameters (ZeRO-3, FSDP); share of the SMs;
bytes of a number; FLOP/s at that number, memory bytes/s, bytes/s to other GPUs, SMs, bytes of
memory."""

_DEFAULTS = {
    "context": 0.0,
    "tensor": 1.0,
    "data": 1.0,
    "pipeline": 1.0,
    "micro_batches": 1.0,
    "recompute": 0.0,
    "sharded": 0.0,
    "sm_share": 1.0,
}
_AT = {name: at for at, name in enumerate(COLUMNS)}
_POSITIVE = set(COLUMNS) - {"kind", "head_parameters", "context", "recompute", "sharded"}


def column(X: FloatArray, name: str) -> FloatArray:
    """Return one column of operations by its name."""
    return np.asarray(X[:, _AT[name]])


def operation_rows(
    kind: str | npt.ArrayLike,
    shape: ModelShape,
    gpu: str,
    *,
    precision: str = "half",
    **columns: npt.ArrayLike,
) -> FloatArray:
    """Rows of operations of one model on one type of GPU, shape (R, len(COLUMNS)).

    Parameters
    ----------
    kind : str or array_like of str, shape (R,)
        Out of `KINDS`.
    shape : ModelShape
        The model.
    gpu : str
        Type out of `predictors.gpus.GPUS`.
    precision : {"half", "tensor_float", "single"}, default "half"
        Numbers of 2 bytes, or of 4 with or without TF32 tensor cores, see `predictors.gpus`.
    **columns : array_like, scalars or shape (R,)
        `rows` and `length`, and what else of `COLUMNS` differs from its default: one GPU, no
        cached tokens, all SMs.

    Raises
    ------
    UnknownNameError
        For an unknown kind, GPU type or column, naming the nearest.
    FieldError
        For a value out of range.
    """
    sheet = gpu_type(gpu)
    names = np.atleast_1d(np.asarray(kind, dtype=str))
    for name in np.unique(names).tolist():
        if name not in KINDS:
            raise unknown("kind of operation", name, KINDS)
    check_keywords("operation_rows", columns, ("rows", "length", *_DEFAULTS))
    for needed in ("rows", "length"):
        if needed not in columns:
            raise FieldError("missing", where=needed, expected="one value per operation")
    body = shape.parameters - shape.embedding_parameters - shape.head_parameters
    values: Mapping[str, npt.ArrayLike] = {
        **_DEFAULTS,
        "layers": shape.layers,
        "layer_parameters": body / shape.layers,
        "head_parameters": shape.embedding_parameters,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_share": shape.kv_heads / shape.heads,
        "number_bytes": 2 if precision == "half" else 4,
        "flops": sheet.flops(precision),
        "bandwidth": sheet.bandwidth,
        "link": sheet.link,
        "sms": sheet.sms,
        "memory": sheet.memory_bytes,
        **columns,
        "kind": np.array([KINDS.index(name) for name in names.tolist()]),
    }
    size = np.broadcast_shapes(*(np.shape(v) for v in values.values()))
    return check_operations(
        np.column_stack([np.broadcast_to(np.asarray(values[c], float), size) for c in COLUMNS])
    )


def check_operations(X: npt.ArrayLike, first: int = 0) -> FloatArray:
    """Return rows of operations as floats, or raise `FieldError` naming the first bad entry.

    Parameters
    ----------
    X : array_like, shape (R, len(COLUMNS))
        The rows.
    first : int, default 0
        Number of the first row, for the error.
    """
    rows = np.asarray(X, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(COLUMNS):
        raise FieldError(
            f"shape {rows.shape}", where="operations", expected=f"(R, {len(COLUMNS)}), see COLUMNS"
        )
    if not len(rows):
        return rows
    low, high = rows.min(axis=0), rows.max(axis=0)
    for at, name in enumerate(COLUMNS):
        strict = name in _POSITIVE
        # NaN compares false, so the good range is asked for.
        good = (low[at] > 0 if strict else low[at] >= 0) and high[at] < np.inf
        wanted = "a finite number, more than 0" if strict else "a finite number, at least 0"
        bad = None
        if not good:
            own = rows[:, at]
            bad = ~((own > 0 if strict else own >= 0) & (own < np.inf))
        elif name == "kind":
            bad = ~np.isin(rows[:, at], np.arange(len(KINDS)))
            wanted = f"0 to {len(KINDS) - 1}, see KINDS"
        if bad is not None and bad.any():
            row = int(np.argmax(bad))
            where = f"{name}, row {first + row}"
            raise FieldError(f"{rows[row, at]:g}", where=where, expected=wanted)
    return rows


def tokens(X: FloatArray) -> FloatArray:
    """Return new tokens of one (micro-)batch, shape (R,): one per row in a decode step."""
    decode = column(X, "kind") == KINDS.index("decode")
    return np.asarray(column(X, "rows") * np.where(decode, 1.0, column(X, "length")))
