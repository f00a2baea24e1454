"""What operations would take at the peak rates of their GPUs, one column per resource.

A time model fits how far real executions stay behind each of the terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lemix_opt.checks import FloatArray
from predictors.efficiencies import Prior
from predictors.operations import COLUMNS, KINDS, tokens

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
    "allocations",
)
"""What the terms count: one per operation, and one per layer and pass (both in ms); matrix
products on a share of the SMs, as if on all of them (power limits the clock of full GPUs), and
rounded up to whole waves of tiles; products of attention, and its scores
where they are written to memory; weights and KV cache read, also as a share of the SMs reads them;
hidden states read and written; output head; sums over tensor-parallel GPUs by bytes and by calls
(10 us); hops between stages; gradients or shared parameters within a machine of 8 and across
machines; optimizer states read and written; what a prefill over several GPUs allocates beyond their
memory."""

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
    "allocations": (0.0, 30.0),
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
_HIDDEN_STATES = 5.0
"""Hidden states a layer allocates at full width: four where residuals are added in place, else six:
two norms, the results of attention and of the perceptron, and their sums with the residual."""
_USABLE = 1.05
"""Usable bytes per byte of the data sheet, which says GB and means GiB (7 % more), of which a
context takes one or two."""
_PROJECTIONS = 3.0
"""Width of queries, keys and values together in multiples of the model's."""
_PASSES = {"prefill": 1, "decode": 1, "forward": 1, "backward": 2, "update": 0, "iteration": 3}
_SUMMING_PASSES = {**_PASSES, "backward": 1, "iteration": 2}
"""The backward of a layer has two products per one of the forward, but as many sums over GPUs."""


def terms(X: FloatArray) -> FloatArray:
    """Seconds at peak rates by resource, shape (R, len(TERMS)); see `TERMS`.

    Pipelined iterations of 1F1B take micro_batches + pipeline - 1 turns of a stage with a
    pipeline-th of the layers (Narayanan et al. 2021, section 2.2). A sum over n GPUs moves
    2·(n-1)/n of the bytes (ring). Causal attention multiplies half of its square.
    """
    c = _short_columns(X)
    kind = c["kind"].astype(np.int64)
    passes = np.array([_PASSES[name] for name in KINDS], float)[kind]
    decode = kind == KINDS.index("decode")
    training = kind >= KINDS.index("forward")
    backward = kind >= KINDS.index("backward")
    update = (kind == KINDS.index("update")) | (kind == KINDS.index("iteration"))
    summing = np.array([_SUMMING_PASSES[name] for name in KINDS], float)[kind]
    again = c["recompute"] * (backward & (passes > 0))
    passes, summing = passes + again, summing + again
    new = np.where(decode, 1.0, c["length"])
    seen = np.where(decode, c["length"], 0.0) + c["context"]
    batch = c["rows"] * new
    turns = (c["micro_batches"] + c["pipeline"] - 1) / c["pipeline"]
    layers = c["layers"] * turns
    work, sums = layers * passes, layers * summing
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
    found = np.empty((len(TERMS), len(X)))
    for own, seconds in zip(
        found,
        [
            1e-3,
            work * 1e-3 + update * c["layers"] * 1e-3,
            linear * batch,
            linear * share * batch,
            linear * batch * _wave_padding(batch, c, _PROJECTIONS),
            4 * pairs * c["hidden"] * work / compute_rate / share,
            batch * (new + seen) * c["heads"] * size * work / c["tensor"] / c["bandwidth"],
            weights,
            weights / share,
            cache,
            cache / share,
            hidden_bytes * work / c["bandwidth"] / share,
            2 * c["head_parameters"] * heads / compute_rate / share,
            2 * (c["tensor"] - 1) / c["tensor"] * 2 * hidden_bytes * sums / c["link"],
            sums * many * 1e-5,
            (c["pipeline"] > 1) * (turns * c["pipeline"]) * (2 * hidden_bytes / c["link"] + 1e-4),
            ring / c["link"],
            ring / _NETWORK * (replicas > _MACHINE),
            _STATE_BYTES
            * states
            / c["bandwidth"]
            / np.where(c["sharded"] > 0, replicas, 1)
            * update,
            _beyond_memory(batch, c) * (kind == KINDS.index("prefill")) * many / c["bandwidth"],
        ],
        strict=True,
    ):
        own[:] = seconds
    return found.T


def wave_padding(X: FloatArray, widths: Sequence[float]) -> FloatArray:
    """Return what whole waves of tiles compute over what a product asks for, shape (W, R).

    Parameters
    ----------
    X : ndarray, shape (R, len(COLUMNS))
        Operations.
    widths : sequence of float, shape (W,)
        Columns of the product's result in multiples of the model's width.
    """
    batch, c = tokens(X), _short_columns(X)
    found = np.empty((len(widths), len(X)))
    for own, width in zip(found, widths, strict=True):
        own[:] = _wave_padding(batch, c, width)
    return found


def _short_columns(X: FloatArray) -> dict[str, FloatArray]:
    """Return columns by name, of shape (1,) where all rows have the same: most have, mostly."""
    return {
        # Most that differ do so between the ends.
        name: own[:1] if len(own) and own[0] == own[-1] and np.all(own == own[0]) else own
        for name, own in zip(COLUMNS, X.T, strict=True)
    }


def _wave_padding(batch: FloatArray, c: Mapping[str, FloatArray], width: float) -> FloatArray:
    """See `wave_padding`."""
    columns, at_once = width * c["hidden"] / c["tensor"], _tiles_at_once(c)
    tiles = np.ceil(batch / _TILE) * np.ceil(columns / _TILE)
    return np.asarray(np.ceil(tiles / at_once) * at_once * _TILE**2 / (batch * columns))


def _tiles_at_once(c: Mapping[str, FloatArray]) -> FloatArray:
    return np.asarray(np.maximum(np.floor(c["sms"] * c["sm_share"]), 1.0))


def _beyond_memory(batch: FloatArray, c: Mapping[str, FloatArray]) -> FloatArray:
    """Bytes per GPU of weights, KV cache and hidden states of all layers at once over its memory.

    PyTorch does not use again what a sum over GPUs has touched until the sum has run; a host that
    is ahead by a whole prefill therefore allocates anew in every layer, and beyond the memory has
    to wait and to free (pytorch/pytorch#76861).
    """
    layers = c["layers"] / c["pipeline"]
    kept = _HIDDEN_STATES + 2 * c["kv_share"] / c["tensor"]
    states = batch * c["hidden"] * kept
    each = c["number_bytes"] * layers * (states + c["layer_parameters"] / c["tensor"])
    return np.maximum(each - _USABLE * c["memory"], 0.0)


def _pairs_in_waves(new: FloatArray, seen: FloatArray, c: Mapping[str, FloatArray]) -> FloatArray:
    """Pairs of tokens that attention over cached keys computes in whole waves of query tiles.

    A tile is one row, one head and 64 new tokens, and stays on one SM for the whole context.
    """
    heads, at_once = c["heads"] / c["tensor"], _tiles_at_once(c)
    tiles = c["rows"] * np.ceil(heads) * np.ceil(new / _QUERY_TILE)
    return np.ceil(tiles / at_once) * at_once * _QUERY_TILE * (new / 2 + seen) / heads
