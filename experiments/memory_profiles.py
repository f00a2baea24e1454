"""Measured peak memory of fine-tuning runs, as parts a memory model can be fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instances import load
from lemix_opt.checks import FloatArray
from lemix_opt.table import Table

FMS_MODELS = {
    "mistralai/Mistral-7B-v0.1": "mistral-7b",
    "meta-llama/Meta-Llama-3-8B": "llama3-8b",
}
"""Models of the fms table whose shape is published, by the table's name."""

_ADAM_BF16_BYTES = 8.0
"""Weights, gradients and two moments, all in bf16, as these runs keep them."""


@dataclass(frozen=True, eq=False)
class MemoryProfile:
    """Physical parts and measured peaks of full fine-tuning runs.

    Parameters
    ----------
    parts : ndarray, shape (R, 2)
        Bytes of the training state and of activations without checkpointing, per GPU.
    peak_bytes : ndarray, shape (R,)
        Measured peak of torch's allocator per GPU.
    left_out : int
        Rows of the table that are not full fine-tuning of a known model or have no peak.
    source : str
        Where the runs come from.
    """

    parts: FloatArray
    peak_bytes: FloatArray
    left_out: int
    source: str


def read_memory_profile() -> MemoryProfile:
    """Read full fine-tuning runs of known models out of the fms table."""
    return pick_full(load("fms_fine_tuning_a100"))


def pick_full(table: Table) -> MemoryProfile:
    """Pick full fine-tuning runs of known models that have a measured peak and length."""
    from predictors.memory import held_bytes
    from predictors.model_shapes import model_shape

    peak = table["mem_peak_torch_mem_alloc_in_bytes"]
    names = table["model_name_or_path"]
    tokens = table["tokens_per_sample"] * table["per_device_train_batch_size"]
    chosen = (table["peft_method"] == "") & np.isin(names, list(FMS_MODELS))
    chosen &= np.isfinite(peak) & np.isfinite(tokens)
    rows = np.flatnonzero(chosen)
    parts = np.empty((rows.size, 2))
    for at, row in enumerate(rows.tolist()):
        shape = model_shape(FMS_MODELS[str(names[row])])
        gpus = float(table["num_gpus"][row])
        kept = held_bytes(shape, 1, np.rint(tokens[[row]]).astype(np.int64), np.array([True]))
        parts[at] = _ADAM_BF16_BYTES * shape.parameters / gpus, kept[0, 0]
    return MemoryProfile(parts, peak[rows], int(table.rows - rows.size), table.source)
