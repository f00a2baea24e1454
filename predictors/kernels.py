"""Iterations of token generation composed of measured kernel times, and the costs they give.

A profile of kernels says what the GPU needs, not what the server adds: time between kernels and
the scheduler's own are no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, whole
from lemix_opt.errors import FieldError, unknown
from lemix_opt.generation import IterationCosts
from lemix_opt.table import Table
from predictors.errors_by_split import SEEDS, mape_pct
from predictors.model_shapes import ModelShape
from predictors.regressor import relative_nnls
from predictors.stages import layers_by_stage

PER_LAYER = {
    "layernorm": 2,
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
"""Runs of a kernel over all new tokens in one transformer layer of the Llama family."""
PER_ITERATION = {"embedding": 1, "final_layernorm": 1}
"""Runs of a kernel over all new tokens in one iteration."""
PER_SEQUENCE = {"lm_head": 1, "sampler": 1}
"""Runs in one iteration of a kernel over the requests that make a token."""
PARTS = ("decodes alone", "prefill alone", "prefill beside decodes")


@dataclass(frozen=True)
class KernelCosts:
    """What iterations take by a profile of kernels.

    Parameters
    ----------
    costs : IterationCosts
        For one node class.
    mape_pct : dict of str to float
        Mean error in percent of whole iterations, with attention's part held out of the fit
        (a random fifth of the points), by `PARTS`.
    points : dict of str to int
        Measured points of attention by part.
    token_reach, context_reach : int
        Most new tokens, and most tokens of context of decodes, that were measured.
    inputs : dict of str to str
        SHA-256 of the tables by name.
    """

    costs: IterationCosts
    mape_pct: dict[str, float]
    points: dict[str, int]
    token_reach: int
    context_reach: int
    inputs: dict[str, str]


def curves(table: Table, by: str) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return seconds by amount for every layer of a table; repeats become their median.

    Parameters
    ----------
    table : Table
        Columns ``layer``, `by` and ``time_us``.
    by : str
        Column of the amount.
    """
    found = {}
    for layer in np.unique(table["layer"]).tolist():
        mine = table["layer"] == layer
        amounts, place = np.unique(table[by][mine], return_inverse=True)
        micros = table["time_us"][mine]
        medians = [float(np.median(micros[place == i])) for i in range(amounts.size)]
        found[layer] = (amounts.astype(np.float64), np.array(medians) / 1e6)
    return found


def summed(
    measured: Mapping[str, tuple[FloatArray, FloatArray]], runs: Mapping[str, int], where: str
) -> tuple[FloatArray, FloatArray]:
    """Add up kernels that run over the same amount, each some times.

    Returns
    -------
    amounts : ndarray, shape (P,)
        All amounts that were measured of any kernel, as far as all of them reach.
    seconds : ndarray, shape (P,)
        Sums, kernels that were not measured at an amount being linear between their neighbours.

    Raises
    ------
    UnknownNameError
        For a measured layer without a number of runs.
    FieldError
        For a layer that was not measured.
    """
    for name in measured:
        if name not in runs:
            raise unknown(f"layer of {where}", name, runs)
    for name in runs:
        if name not in measured:
            raise FieldError(
                f"no layer {name!r}", where=where, expected=f"{', '.join(runs)}: all were run"
            )
    low = max(amounts[0] for amounts, _ in measured.values())
    high = min(amounts[-1] for amounts, _ in measured.values())
    amounts = np.unique(np.concatenate([a for a, _ in measured.values()]))
    amounts = amounts[(amounts >= low) & (amounts <= high)]
    total = np.zeros(amounts.size)
    for name, count in runs.items():
        total += count * np.interp(amounts, *measured[name])
    return amounts, total


def composed(attention: Table, dense: Table, per_sequence: Table, shape: ModelShape) -> FloatArray:
    """Seconds of whole iterations at the measured points of attention, shape (R,).

    Every kernel counts as often as it runs. Attention is as measured; the others are linear between
    their measured amounts. Requests that make a token are the decodes, and one whose prompt the
    chunk belongs to.

    Parameters
    ----------
    attention, dense, per_sequence : Table
        As in `fit_kernels`.
    shape : ModelShape
        What was measured.

    Raises
    ------
    FieldError
        If a layer was not measured, or an iteration lies beyond what was.
    """
    runs = {name: count * shape.layers for name, count in PER_LAYER.items()} | PER_ITERATION
    new = attention["prefill_chunk"] + attention["n_decode"]
    requests = attention["n_decode"] + (attention["prefill_chunk"] > 0)
    found = shape.layers * attention["time_us"] / 1e6
    for table, by, counts, amount in (
        (dense, "tokens", runs, new),
        (per_sequence, "sequences", PER_SEQUENCE, requests),
    ):
        knots, seconds = summed(curves(table, by), counts, table.name)
        if amount.max() > knots[-1]:
            raise FieldError(
                f"{amount.max():g} {by}", where=attention.name, expected=f"at most {knots[-1]:g}"
            )
        found = found + np.interp(amount, knots, seconds)
    return np.asarray(found)


def fit_kernels(
    attention: Table,
    dense: Table,
    per_sequence: Table,
    shape: ModelShape,
    *,
    most_context: float = np.inf,
    per_layer: Mapping[str, int] = PER_LAYER,
    stages: int = 1,
) -> KernelCosts:
    """Compose iterations of a model from measured kernel times.

    Kernels over tokens are taken as they were measured, linear between the points. Those over
    requests become a line, those of attention a sum of terms, each found where it is alone: what
    decodes add from runs without a prefill, what a prefill adds from runs without decodes, and what
    they add beside each other from the others. Coefficients are at least 0 and of least error
    relative to the whole iteration.

    Parameters
    ----------
    attention : Table
        Columns ``prefill_chunk, kv_prefill, n_decode, kv_decode, time_us``: one layer's attention
        over a chunk of new tokens behind a context, beside decodes with a context each.
    dense, per_sequence : Table
        Columns ``layer, tokens, time_us`` and ``layer, sequences, time_us``, of one run each.
    shape : ModelShape
        What was measured.
    most_context : float, default infinity
        Points of attention over more tokens of context are left out: a GPU whose KV cache ends
        before never meets them.
    per_layer : mapping of str to int
        Runs of dense kernels in a transformer layer.
    stages : int, default 1
        Pipeline stages to split over, in proportion to layers.

    Raises
    ------
    FieldError
        If a part of attention or a layer was not measured.
    """
    runs = {name: count * shape.layers for name, count in per_layer.items()} | PER_ITERATION
    knots, token_s = summed(curves(dense, "tokens"), runs, dense.name)
    amounts, seconds = summed(curves(per_sequence, "sequences"), PER_SEQUENCE, per_sequence.name)
    head = relative_nnls(np.column_stack([np.ones(amounts.size), amounts]), seconds)
    points = np.column_stack(
        [attention[n] for n in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")]
    ).astype(np.float64)
    chunk, behind, decodes, each = points.T
    reached = chunk + behind + decodes * each <= most_context
    points, chunk, decodes = points[reached], chunk[reached], decodes[reached]
    attention_s = shape.layers * attention["time_us"][reached] / 1e6
    rest_s = np.interp(chunk + decodes, knots, token_s) + head[0] + head[1] * decodes
    parts = (chunk == 0, decodes == 0, (chunk > 0) & (decodes > 0))
    for name, part in zip(PARTS, parts, strict=True):
        if not part.any():
            raise FieldError(f"no {name}", where=attention.name, expected="measured points of it")
    fitted = _attention(points, attention_s, rest_s, parts)
    share = layers_by_stage(shape, whole("stages", stages, minimum=1)) / shape.layers

    def spread(value: float) -> FloatArray:
        return np.asarray(value * share[None])

    base, per_decode, per_context, per_token, per_pair, mixed_decode, mixed_context = fitted
    costs = IterationCosts(
        spread(base + head[0]),
        spread(per_token),
        spread(per_pair),
        spread(per_decode + head[1]),
        spread(per_context),
        spread(shape.kv_bytes_per_token),
        per_mixed_decode_s=spread(mixed_decode),
        per_mixed_context_token_s=spread(mixed_context),
        token_knots=knots,
        token_s=share[None, :, None] * token_s,
    )
    return KernelCosts(
        costs,
        _errors(points, attention_s, rest_s, parts),
        {name: int(part.sum()) for name, part in zip(PARTS, parts, strict=True)},
        int(knots[-1]),
        int((points[:, 2] * points[:, 3]).max()),
        {table.name: table.sha256 for table in (attention, dense, per_sequence)},
    )


def _features(points: FloatArray) -> FloatArray:
    """Return constant, decodes, their context, new tokens, pairs, the first two beside prefills."""
    chunk, behind, decodes, each = points.T
    context, mixed = decodes * each, chunk > 0
    return np.column_stack(
        [
            np.ones(len(points)),
            decodes,
            context,
            chunk,
            chunk * (behind + chunk),
            mixed * decodes,
            mixed * context,
        ]
    )


def _attention(
    points: FloatArray,
    attention_s: FloatArray,
    rest_s: FloatArray,
    parts: tuple[BoolArray, ...],
) -> FloatArray:
    """Return the coefficients of `_features`, those of a part from its points alone."""
    features, found = _features(points), np.zeros(7)
    for part, own in zip(parts, ([0, 1, 2], [3, 4], [5, 6]), strict=True):
        if not part.any():
            continue
        left = attention_s[part] - features[part] @ found
        found[own] = relative_nnls(features[part][:, own], left, (attention_s + rest_s)[part])
    return found


def _errors(
    points: FloatArray,
    attention_s: FloatArray,
    rest_s: FloatArray,
    parts: tuple[BoolArray, ...],
) -> dict[str, float]:
    """Hold a random fifth of the points out; return mean errors of iterations in percent."""
    found: dict[str, list[float]] = {name: [] for name in PARTS}
    distinct, place = np.unique(points, axis=0, return_inverse=True)
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(len(distinct))
        fit_on = np.isin(place, order[: int(0.8 * len(distinct))])
        kept = tuple(part & fit_on for part in parts)
        predicted = rest_s + _features(points) @ _attention(points, attention_s, rest_s, kept)
        for name, part in zip(PARTS, parts, strict=True):
            held = part & ~fit_on
            if held.any():
                found[name].append(mape_pct((attention_s + rest_s)[held], predicted[held]))
    return {name: float(np.mean(errors)) for name, errors in found.items() if errors}
