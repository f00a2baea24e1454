"""Readers of public datasets, by name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from instances.csv_table import Column, read_csv
from lemix_opt.errors import FileFormatError
from lemix_opt.table import Table

_AZURE = (
    Column("TIMESTAMP", "text"),
    Column("ContextTokens", "int", "tokens", minimum=1),
    Column("GeneratedTokens", "int", "tokens"),
)
_MUXSERVE = (
    Column("model", "text"),
    Column("n_gpus", "int", "GPUs", minimum=1),
    Column("sm_pct", "int", "%", minimum=1),
    Column("batch", "int", "rows", minimum=1),
    Column("seqlen", "int", "tokens", minimum=1),
    Column("prefill_ms", "float", "ms", positive=True, missing=("",)),
    Column("decode_ms", "float", "ms", positive=True, missing=("",)),
)


def read_azure(path: str | os.PathLike[str]) -> Table:
    """Read an Azure LLM trace of 2023 and add `arrival_s`, seconds since the first arrival.

    The source has no code for missing values; time stamps are UTC with 100 ns digits.

    Raises
    ------
    FileFormatError
        For a cell that is no time stamp or number, or a time stamp that goes back.
    """
    table = read_csv(path, Path(path).stem, _AZURE, "Azure/AzurePublicDataset, CC-BY-4.0")
    stamps = []
    for row, text in enumerate(table["TIMESTAMP"].tolist()):
        try:
            stamps.append(np.datetime64(text.strip().replace(" ", "T"), "ns"))
        except ValueError:
            stamps.append(np.datetime64("NaT"))
        if np.isnat(stamps[-1]) or (row and stamps[-1] < stamps[-2]):
            raise FileFormatError(
                f"value {text[:40]!r}",
                where=f"{path}: row {row + 1}: TIMESTAMP",
                expected="a date and time not before the row above",
            )
    since = np.array(stamps) - stamps[0]
    arrival_s = since.astype(np.int64) / 1e9
    return replace(
        table,
        columns={**table.columns, "arrival_s": arrival_s},
        units={**table.units, "arrival_s": "s"},
    )


def read_muxserve(path: str | os.PathLike[str]) -> Table:
    """Read MuxServe's prefill and decode times on A100; an empty cell is a run not made."""
    source = "hao-ai-lab/MuxServe, Apache-2.0 by its setup.py"
    return read_csv(path, "muxserve_llama_a100", _MUXSERVE, source)
