"""Kernel tables of a known truth, as vLLM profiles have them."""

from __future__ import annotations

import numpy as np

from lemix_opt.table import Table
from predictors.kernels import PER_ITERATION, PER_LAYER, PER_SEQUENCE

PER_RUN_US = 0.25
"""Of a kernel over tokens, per token; as many as 64 tokens take the same time."""
ATTENTION = (9.0, 0.2, 5e-3, 1e-4, 1.0, 6e-3)
"""One layer's microseconds: constant, per decode, per token of context, per pair, and beside
prefills per decode and per token of context."""


def kernel_tables() -> tuple[Table, Table, Table]:
    """Build attention, dense and per-sequence tables."""
    tokens = np.array([1, 16, 32, 64, 128, 256, 512, 1024, 2048])
    layers = [*PER_LAYER, *PER_ITERATION]
    dense = Table(
        "dense",
        {
            "layer": np.repeat(layers, tokens.size),
            "tokens": np.tile(tokens, len(layers)),
            "time_us": np.tile(PER_RUN_US * np.maximum(tokens, 64.0), len(layers)),
        },
    )
    sequences = np.array([1, 2, 8, 64, 256])
    per_sequence = Table(
        "per_sequence",
        {
            "layer": np.repeat(list(PER_SEQUENCE), sequences.size),
            "sequences": np.tile(sequences, 2),
            "time_us": np.tile(1000.0 + sequences, 2),
        },
    )
    grid = [
        (chunk, behind, decodes, each)
        for chunk in (0, 64, 256, 1024)
        for behind in ((0, 512, 2048) if chunk else (0,))
        for decodes in (0, 1, 8, 64)
        for each in ((16, 256, 1024) if decodes else (0,))
        if chunk or decodes
    ]
    chunk, behind, decodes, each = np.array(grid).T
    base, decode, context, pair, mixed_decode, mixed_context = ATTENTION
    mixed = chunk > 0
    time_us = base + pair * chunk * (behind + chunk) + decodes * (decode + mixed * mixed_decode)
    time_us = time_us + decodes * each * (context + mixed * mixed_context)
    columns = {"prefill_chunk": chunk, "kv_prefill": behind, "n_decode": decodes, "kv_decode": each}
    return Table("attention", columns | {"time_us": time_us}), dense, per_sequence
