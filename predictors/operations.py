"""Operations as numbers, and what each would take at the peak rates of its GPU.

An operation is one row of columns (`COLUMNS`): what is done, the shape of the model, the batch,
how it is spread over GPUs, and the GPU's data sheet. `terms` turns rows into seconds at peak rates,
one column per resource (`TERMS`); a time model fits how far real executions stay behind each.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError, check_keywords, unknown
from predictors.efficiencies import Prior
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
)
"""Columns of a row: kind as its index in `KINDS`; layers of the whole model and parameters of one
of them and of the output head (0 where it is not run); width, attention heads, key/value heads per
head; rows of a (micro-)batch, new tokens per row, cached tokens per row; tensor, data and pipeline
parallel GPUs; micro-batches of one iteration and replica; whether the backward recomputes the
forward, whether data-parallel replicas share the parameters (ZeRO-3, FSDP); share of the SMs;
bytes of a number; FLOP/s at that number, memory bytes/s, bytes/s to other GPUs, SMs."""

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

TERMS = (
    "constant",
    "launches",
    "compute",
    "compute_whole",
    "tiles",
    "attention",
    "scores",
    "weights",
    "weights_share",
    "cache",
    "cache_share",
    "activations",
    "head",
    "all_reduce",
    "all_reduce_calls",
    "hops",
    "gradients",
    "gradients_across",
    "states",
)
"""What the terms count: one per operation, and one per layer and pass (both in ms); matrix
products on a share of the SMs, as if on all of them (power limits the clock of full GPUs), and
rounded up to whole waves of tiles; products of attention, and its scores
where they are written to memory; weights and KV cache read, also as a share of the SMs reads them;
hidden states read and written; output head; sums over tensor-parallel GPUs by bytes and by calls
(10 us); hops between stages; gradients or shared parameters within a machine of 8 and across
machines; optimizer states read and written."""

_HOST, _MEMORY, _WORK = range(3)
_BLOCK = {
    "constant": _HOST,
    "launches": _HOST,
    "weights": _MEMORY,
    "weights_share": _MEMORY,
    "cache": _MEMORY,
    "cache_share": _MEMORY,
}
BLOCKS = np.array([_BLOCK.get(name, _WORK) for name in TERMS])
"""Which terms share a bottleneck: 0 the host that launches, 1 memory, 2 everything else. Blocks
overlap."""

_TYPICAL = {
    "constant": (1.0, 5.0),
    "launches": (0.1, 0.2),
    "compute": (1.2, 0.4),
    "compute_whole": (0.2, 0.3),
    "tiles": (0.0, 0.5),
    "attention": (2.0, 1.0),
    "scores": (3.0, 5.0),
    "weights": (1.0, 0.3),
    "weights_share": (0.2, 0.2),
    "cache": (1.0, 0.5),
    "cache_share": (0.2, 0.3),
    "activations": (10.0, 10.0),
    "head": (1.5, 1.0),
    "all_reduce": (1.5, 2.0),
    "all_reduce_calls": (2.0, 5.0),
    "hops": (1.0, 1.0),
    "gradients": (1.5, 2.0),
    "gradients_across": (1.5, 2.0),
    "states": (1.2, 1.0),
}
TYPICAL = Prior(*np.array([_TYPICAL[name] for name in TERMS]).T)
"""What terms take next to peak rates before anything is measured, and how uncertain that is:
matrix products at about two thirds of the peak, memory at 80 %, ten passes over the hidden states
per layer, up to eight over attention scores where no fused kernel is used, 0.1 ms of launches per
layer and 20 us per collective call. Rules of thumb; predictions from them alone are
`theoretical`."""

_MACHINE = 8
"""GPUs of a machine, beyond which data-parallel traffic crosses the network."""
_NETWORK = 25e9
"""Bytes/s of the network per GPU: 200 Gbit/s, as A100 and H100 machines commonly have."""
_TILE = 128
"""Rows and columns of a matrix-product tile, the largest common size of cuBLAS kernels."""
_STATE_BYTES = 28.0
"""Bytes an Adam step moves per parameter: weights, gradients and two moments in 4 bytes, read, and
all but the gradients written."""
_QUERY_TILE = 64
"""New tokens that a kernel over cached keys works on at once; measured times are flat up to it."""
_PROJECTIONS = 3.0
"""Width of queries, keys and values together in multiples of the model's."""
_PASSES = {"prefill": 1, "decode": 1, "forward": 1, "backward": 2, "update": 0, "iteration": 3}


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


def terms(X: FloatArray) -> FloatArray:
    """Seconds at peak rates by resource, shape (R, len(TERMS)); see `TERMS`.

    Pipelined iterations of 1F1B take micro_batches + pipeline - 1 turns of a stage with a
    pipeline-th of the layers (Narayanan et al. 2021, section 2.2). A sum over n GPUs moves
    2·(n-1)/n of the bytes (ring). Causal attention multiplies half of its square.
    """
    c = {name: X[:, at] for name, at in _AT.items()}
    kind = c["kind"].astype(np.int64)
    passes = np.array([_PASSES[name] for name in KINDS], float)[kind]
    decode = kind == KINDS.index("decode")
    training = kind >= KINDS.index("forward")
    backward = kind >= KINDS.index("backward")
    update = (kind == KINDS.index("update")) | (kind == KINDS.index("iteration"))
    passes = passes + c["recompute"] * (backward & (passes > 0))
    new = np.where(decode, 1.0, c["length"])
    seen = np.where(decode, c["length"], 0.0) + c["context"]
    batch = c["rows"] * new
    turns = (c["micro_batches"] + c["pipeline"] - 1) / c["pipeline"]
    layers = c["layers"] * turns
    work = layers * passes
    compute_rate = c["tensor"] * c["flops"]
    share = c["sm_share"]
    size = c["number_bytes"]
    weights = c["layer_parameters"] * size / c["tensor"] / c["bandwidth"] * layers
    weights = weights * np.maximum(passes, 0)
    cache = 2 * c["rows"] * seen * c["hidden"] * c["kv_share"] * size
    cache = cache / c["tensor"] / c["bandwidth"] * work
    pairs = batch * (new / 2 + seen)
    waved = (c["context"] > 0) & ~decode
    if waved.any():
        pairs = np.where(waved, _pairs_in_waves(new, seen, c), pairs)
    states = c["layer_parameters"] * c["layers"] / (c["tensor"] * c["pipeline"])
    replicas = c["data"]
    ring = 2 * (replicas - 1) / replicas * states * size
    ring = ring * np.where(c["sharded"] > 0, 1.5 * c["micro_batches"], 1.0) * update
    hidden_bytes = batch * c["hidden"] * size
    heads = np.where(training, batch, c["rows"]) * passes * c["micro_batches"]
    linear = 2 * c["layer_parameters"] * work / compute_rate / share
    many = c["tensor"] > 1
    # Whole columns lie together.
    return np.array(
        [
            np.full(len(X), 1e-3),
            work * 1e-3 + update * c["layers"] * 1e-3,
            linear * batch,
            linear * share * batch,
            linear * batch * wave_padding(X, _PROJECTIONS),
            4 * pairs * c["hidden"] * work / compute_rate / share,
            batch * (new + seen) * c["heads"] * size * work / c["tensor"] / c["bandwidth"],
            weights,
            weights / share,
            cache,
            cache / share,
            hidden_bytes * work / c["bandwidth"] / share,
            2 * c["head_parameters"] * heads / compute_rate / share,
            2 * (c["tensor"] - 1) / c["tensor"] * 2 * hidden_bytes * work / c["link"],
            work * many * 1e-5,
            (c["pipeline"] > 1) * (turns * c["pipeline"]) * (2 * hidden_bytes / c["link"] + 1e-4),
            ring / c["link"],
            ring / _NETWORK * (replicas > _MACHINE),
            _STATE_BYTES
            * states
            / c["bandwidth"]
            / np.where(c["sharded"] > 0, replicas, 1)
            * update,
        ]
    ).T


def wave_padding(X: FloatArray, width: float) -> FloatArray:
    """Return what whole waves of tiles compute over what a product asks for, shape (R,).

    Parameters
    ----------
    X : ndarray, shape (R, len(COLUMNS))
        Operations.
    width : float
        Columns of the product's result in multiples of the model's width.
    """
    batch, columns = tokens(X), width * column(X, "hidden") / column(X, "tensor")
    at_once = np.maximum(np.floor(column(X, "sms") * column(X, "sm_share")), 1.0)
    tiles = np.ceil(batch / _TILE) * np.ceil(columns / _TILE)
    return np.asarray(np.ceil(tiles / at_once) * at_once * _TILE**2 / (batch * columns))


def _pairs_in_waves(new: FloatArray, seen: FloatArray, c: Mapping[str, FloatArray]) -> FloatArray:
    """Pairs of tokens that attention over cached keys computes in whole waves of query tiles.

    A tile is one row, one head and 64 new tokens, and stays on one SM for the whole context.
    """
    heads = c["heads"] / c["tensor"]
    at_once = np.maximum(np.floor(c["sms"] * c["sm_share"]), 1.0)
    tiles = c["rows"] * np.ceil(heads) * np.ceil(new / _QUERY_TILE)
    return np.ceil(tiles / at_once) * at_once * _QUERY_TILE * (new / 2 + seen) / heads
