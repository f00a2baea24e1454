"""Measured times of one model on one kind of GPU, picked out of the public tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from instances import load
from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError, unknown
from lemix_opt.table import Table
from predictors.measured import MeasuredTimes


@dataclass(frozen=True)
class Columns:
    """Where a table keeps what a profile needs; times are in milliseconds.

    Parameters
    ----------
    batch, length, milliseconds, model, gpus : str
        Columns.
    gpu_column : str
        Column of the GPU type; empty when all rows are of one type.
    gpu : str
        That type; the default where there is a column.
    fixed : dict
        Further columns and the value rows must have.
    """

    batch: str
    length: str
    milliseconds: str
    model: str
    gpus: str
    gpu_column: str
    gpu: str
    fixed: dict[str, float]


GIB = 2.0**30
GPU_BYTES = {"a100-80gb": 80 * GIB, "h100-80gb": 80 * GIB, "h100-80gb-pcap": 80 * GIB}
"""Memory of one GPU by type; ``pcap`` is power-capped."""

PROFILES = {
    "muxserve_llama_a100": Columns(
        "batch",
        "seqlen",
        "prefill_ms",
        "model",
        "n_gpus",
        "",
        "a100-80gb",
        {"sm_pct": 100},
    ),
    "splitwise_perf_model": Columns(
        "batch_size",
        "prompt_size",
        "prompt_time",
        "model",
        "tensor_parallel",
        "hardware",
        "h100-80gb",
        {},
    ),
}


@dataclass(frozen=True, eq=False)
class Profile:
    """Measured whole-model prefill times.

    Parameters
    ----------
    name, model, gpu : str
        Dataset, model and GPU type.
    gpus : int
        GPUs one measurement used.
    memory_bytes : float
        Memory of these GPUs together.
    measured : MeasuredTimes
        The points.
    sha256 : str
        Hash of the file.
    """

    name: str
    model: str
    gpu: str
    gpus: int
    memory_bytes: float
    measured: MeasuredTimes
    sha256: str

    @property
    def points(self) -> tuple[FloatArray, FloatArray]:
        """Batch rows and length (R, 2), and seconds (R,), of all usable runs."""
        shape = np.column_stack([self.measured.batch, self.measured.length]).astype(np.float64)
        return shape, self.measured.seconds


def read_profile(name: str, model: str, gpu: str | None = None, gpus: int = 1) -> Profile:
    """Read the prefill times of a model on `gpus` GPUs of one type.

    Raises
    ------
    UnknownNameError
        For a profile, model or GPU type that is not there, naming the nearest.
    FieldError
        If nothing was measured on that many GPUs.
    """
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    columns = PROFILES[name]
    return pick(load(name), columns, model, columns.gpu if gpu is None else gpu, gpus)


def pick(table: Table, columns: Columns, model: str, gpu: str, gpus: int) -> Profile:
    """Pick the rows of one model, GPU type and number of GPUs out of a table."""
    models = np.unique(table[columns.model]).tolist()
    types = np.unique(table[columns.gpu_column]).tolist() if columns.gpu_column else [columns.gpu]
    if model not in models:
        raise unknown(f"model of {table.name}", model, models)
    if gpu not in types:
        raise unknown(f"GPU type of {table.name}", gpu, types)
    rows = table[columns.model] == model
    if columns.gpu_column:
        rows &= table[columns.gpu_column] == gpu
    for column, value in columns.fixed.items():
        rows &= table[column] == value
    counts = np.unique(table[columns.gpus][rows]).tolist()
    rows &= table[columns.gpus] == gpus
    if not rows.any():
        raise FieldError(
            f"{gpus} GPUs for {model} on {gpu}",
            where=f"tensor_parallel of {table.name}",
            expected=f"one of the measured {', '.join(map(str, counts))}",
        )
    chosen = table.where(rows)
    measured = MeasuredTimes(
        chosen[columns.batch],
        chosen[columns.length],
        chosen[columns.milliseconds] / 1e3,
        f"{table.name}, {model}, {gpus} x {gpu}",
    )
    memory = gpus * GPU_BYTES[gpu]
    return Profile(table.name, model, gpu, gpus, memory, measured, table.sha256)


def read_iterations(model: str, gpus: int) -> tuple[FloatArray, FloatArray, str]:
    """Read prefills and decode steps of a model on A100 out of the MuxServe table.

    Returns
    -------
    X : ndarray, shape (R, 3)
        Rows, tokens and phase of every run, see `predictors.iterations.IterationTimeModel`.
    seconds : ndarray, shape (R,)
        Measured times.
    sha256 : str
        Hash of the file.
    """
    name = "muxserve_llama_a100"
    table, columns = load(name), PROFILES[name]
    parts = []
    for phase, time in enumerate(("prefill_ms", "decode_ms")):
        timed = replace(columns, milliseconds=time)
        shape, seconds = pick(table, timed, model, columns.gpu, gpus).points
        parts.append((np.column_stack([shape, np.full(len(shape), phase)]), seconds))
    X, seconds = (np.concatenate(column) for column in zip(*parts, strict=True))
    return X, seconds, table.sha256
