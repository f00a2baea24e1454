"""Measured peak memory of fine-tuning runs, as parts a memory model can be fitted to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from instances import load
from lemix_opt.checks import BoolArray, FloatArray
from lemix_opt.table import Table

if TYPE_CHECKING:
    from predictors.memory_parts import TrainingRun

PROFILE = "fms_fine_tuning_a100"
FMS_MODELS = {
    "": "mistral-7b",
    "NousResearch/Llama-2-70b-hf": "llama2-70b",
    "TheBloke/Llama-2-70B-GPTQ": "llama2-70b",
    "TechxGenus/Meta-Llama-3-8B-GPTQ": "llama3-8b",
    "meta-llama/Meta-Llama-3-8B": "llama3-8b",
    "TheBloke/Mistral-7B-v0.1-GPTQ": "mistral-7b",
    "mistralai/Mistral-7B-v0.1": "mistral-7b",
    "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ": "mixtral-8x7b",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "mixtral-8x7b",
    "bigcode/gpt_bigcode-santacoder": "santacoder",
    "ibm/PowerLM-3b": "powerlm-3b",
    "ibm-granite/granite-3.0-3b-a800m-instruct": "granite-3.0-3b-a800m",
    "ibm-granite/granite-4.0-tiny-preview": "granite-moe-7b-a1b",
    "ibm-research/moe-7b-1b-active-shared-experts": "granite-moe-7b-a1b",
}
"""Shapes of the models of the fms table, by the table's name. Rows without a name are of the
benchmark's scenarios on orca-math, which name Mistral-7B alone (scenarios-orca.yaml)."""

PACKED_TOKENS = 4096.0
"""Length of packed samples of models none of whose runs tells it; runs that failed do not."""

_QUANTISED_BITS = 4.5
"""Four bits and a 32-bit scale for every 64 numbers (Dettmers et al. 2023, section 3)."""


@dataclass(frozen=True, eq=False)
class MemoryProfile:
    """Physical parts and measured peaks of fine-tuning runs, one row per run.

    Parameters
    ----------
    parts : ndarray, shape (R, 13)
        Bytes of every part per GPU, see `predictors.memory_parts.training_parts`.
    peak_bytes : ndarray, shape (R,)
        Measured peak of torch's allocator per GPU; NaN where it was not recorded.
    failed : ndarray of bool, shape (R,)
        Runs without a run time, which presumably ran out of memory.
    model, shape, framework : ndarray of str, shape (R,)
        Model as the table names it, its shape, and the framework's configuration.
    gpus : ndarray of int, shape (R,)
        GPUs of the run.
    left_out : int
        Rows of the table whose model has no known shape, or whose length is not known.
    source, sha256 : str
        Where the runs come from, and the hash of the file.
    """

    parts: FloatArray
    peak_bytes: FloatArray
    failed: BoolArray
    model: npt.NDArray[np.str_]
    shape: npt.NDArray[np.str_]
    framework: npt.NDArray[np.str_]
    gpus: npt.NDArray[np.int64]
    left_out: int
    source: str
    sha256: str

    @property
    def measured(self) -> BoolArray:
        """Rows with a recorded peak, shape (R,)."""
        return np.isfinite(self.peak_bytes)


def read_memory_profile() -> MemoryProfile:
    """Read the runs of the fms table."""
    return memory_profile(load(PROFILE))


def memory_profile(table: Table) -> MemoryProfile:
    """State every run of an fms table of known models by its physical parts."""
    from predictors.memory_parts import training_parts
    from predictors.model_shapes import model_shape

    names = table["model_name_or_path"]
    runs: list[TrainingRun | None] = [
        _run(table, row) if str(name) in FMS_MODELS else None for row, name in enumerate(names)
    ]
    rows = np.array([row for row, run in enumerate(runs) if run is not None], dtype=np.int64)
    shapes = np.array([FMS_MODELS[str(names[row])] for row in rows], dtype=np.str_)
    parts = [
        training_parts(model_shape(str(name)), run)
        for name, run in zip(shapes, (runs[row] for row in rows), strict=True)
        if run is not None
    ]
    return MemoryProfile(
        np.array(parts),
        table["mem_peak_torch_mem_alloc_in_bytes"][rows],
        ~np.isfinite(table["train_runtime"][rows]),
        np.array([str(names[row]) for row in rows], dtype=np.str_),
        shapes,
        np.array([str(table["framework_config"][row]) for row in rows], dtype=np.str_),
        table["num_gpus"][rows].astype(np.int64),
        int(table.rows - rows.size),
        table.source,
        table.sha256,
    )


def _run(table: Table, row: int) -> TrainingRun | None:
    """Read how a row was trained out of its columns; None where its length is not known."""
    from predictors.memory_parts import TrainingRun

    def text(column: str) -> str:
        return str(table[column][row])

    def number(column: str) -> float:
        return float(table[column][row])

    framework, adapters = text("framework_config"), text("peft_method") == "lora"
    gpus, rows = int(number("num_gpus")), int(number("per_device_train_batch_size"))
    # The sparse models' runs and those on orca-math are neither packed nor of one length.
    packed = not re.search("orca|_moe", text("file"))
    length = number("tokens_per_sample")
    if not np.isfinite(length):
        if not packed:
            return None
        alike = table["model_name_or_path"] == text("model_name_or_path")
        told = table["tokens_per_sample"][alike & np.isfinite(table["tokens_per_sample"])]
        length = float(np.median(told)) if told.size else PACKED_TOKENS
    mixed = bool(text("bf16") or text("fp16"))
    per_step = number("train_samples_per_second") / number("train_steps_per_second")
    spread = re.search(r"-ep(\d+)", framework)
    quantised = re.search("bnb|autogptq", framework) is not None
    return TrainingRun(
        rows=rows,
        length=length,
        gpus=gpus,
        method="lora" if adapters else "full",
        weight_bits=_QUANTISED_BITS if quantised else 16.0,
        rank=int(number("r")) if adapters else 0,
        # Trained numbers are 32-bit in mixed precision, but for whole models on one GPU, which
        # were loaded in 16 bits.
        master_bytes=4.0 if mixed and (adapters or gpus > 1) else 2.0,
        # The benchmark's defaults turn it on (defaults.yaml), those of the sparse models do not.
        checkpointing="_moe" not in text("file"),
        wide_checkpoints=framework.startswith("baseline") and gpus == 1,
        fused_kernels="foak" in framework,
        fused_loss="liger" in framework,
        accumulation=max(1, round(per_step / (gpus * rows))) if np.isfinite(per_step) else 1,
        expert_parallel=int(spread[1]) if spread else 1,
        padding="packed" if packed else "free" if "padding-free" in framework else "padded",
    )
