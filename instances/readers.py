"""Readers of public datasets and of recordings, by name."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from instances import schemas
from instances.csv_table import MAX_BYTES, line_of, number_hint, read_csv
from lemix_opt.errors import FileFormatError, excerpt
from lemix_opt.recording import Recording
from lemix_opt.registry import Registry
from lemix_opt.table import Table

_STAMP = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?", re.ASCII)
_OFFSET = re.compile(r"([+-]\d\d:?\d\d|Z)$", re.ASCII)
_ZONED = (
    "It looks like Azure's trace of LLM requests of 2024, with offsets from UTC; workloads of this "
    "format are not read yet"
)
RECORDINGS = {
    "kineto": "instances.recordings.kineto:read_kineto",
    "nvidia-smi": "instances.recordings.nvidia_smi:read_nvidia_smi",
    "otlp": "instances.recordings.otlp:read_otlp",
    "timeline": "instances.recordings.timeline:read_timeline",
    "vllm": "instances.recordings.vllm:read_vllm",
}
"""Readers that return a `Recording`; the others return a `Table`."""
READERS: Registry[Table | Recording] = Registry(
    "reader",
    "lemix_opt.readers",
    RECORDINGS
    | {
        name: f"instances.readers:read_{name}"
        for name in (
            "aceso",
            "azure",
            "fms",
            "gavel_isolated",
            "gavel_pairs",
            "hh_rlhf",
            "mpt",
            "muxserve",
            "sailor",
            "splitwise",
            "vidur_send_recv",
            "vllm_attention",
            "vllm_dense",
            "vllm_per_sequence",
            "vtrain",
        )
    },
)
_AZURE_SOURCE = "Azure/AzurePublicDataset, CC-BY-4.0"
Source = str | os.PathLike[str]


def read_azure(path: Source, max_bytes: int = MAX_BYTES) -> Table:
    """Read an Azure LLM trace of 2023 and add `arrival_s`, seconds since the first arrival.

    The source has no code for missing values; time stamps are UTC with 100 ns digits.

    Parameters
    ----------
    path : path-like
        The file.
    max_bytes : int, default `instances.csv_table.MAX_BYTES`
        Largest content that is read, after decompression.

    Raises
    ------
    FileFormatError
        For a cell that is no time stamp or number, or a time stamp that goes back.
    """
    table = read_csv(path, Path(path).stem, schemas.AZURE, _AZURE_SOURCE, max_bytes)
    stamps = []
    for row, text in enumerate(table["TIMESTAMP"].tolist()):
        # numpy would shift a time of another zone, and only warn.
        plain = text.strip().replace(" ", "T")
        try:
            stamps.append(np.datetime64(plain if _STAMP.fullmatch(plain) else "NaT", "ns"))
        except ValueError:
            stamps.append(np.datetime64("NaT", "ns"))
        if np.isnat(stamps[-1]):
            raise FileFormatError(
                f"value {excerpt(text, 40)!r}",
                where=f"{path}:{line_of(path, row)}: row {row + 1}: TIMESTAMP",
                expected="a date and time as in the trace of 2023, 2023-11-16 18:15:46.6805900",
                hint=_ZONED if _OFFSET.search(plain) else number_hint(plain),
            )
        if row and stamps[-1] < stamps[-2]:
            raise FileFormatError(
                f"value {text!r}",
                where=f"{path}:{line_of(path, row)}: row {row + 1}: TIMESTAMP",
                expected="a date and time not before the row above",
                hint="Sort the rows by TIMESTAMP",
            )
    since = np.array(stamps) - stamps[0]
    arrival_s = since.astype(np.int64) / 1e9
    return replace(
        table,
        columns={**table.columns, "arrival_s": arrival_s},
        units={**table.units, "arrival_s": "s"},
        origin_ns=int(stamps[0].astype(np.int64)),
    )


def read_muxserve(path: Source) -> Table:
    """Read MuxServe's prefill and decode times on A100; an empty cell is a run not made."""
    source = "hao-ai-lab/MuxServe, Apache-2.0 by its setup.py"
    return read_csv(path, "muxserve_llama_a100", schemas.MUXSERVE, source)


def read_splitwise(path: Source) -> Table:
    """Read Splitwise's prompt and token times on A100 and H100; it has no code for missing."""
    return read_csv(path, "splitwise_perf_model", schemas.SPLITWISE, "Mutinifni/splitwise-sim, MIT")


def read_vtrain(path: Source) -> Table:
    """Read vTrain's training iteration times; it has no code for missing."""
    return read_csv(path, "vtrain_single_node", schemas.VTRAIN, "VIA-Research/vTrain, MIT")


def read_fms(path: Source) -> Table:
    """Read fine-tuning times and memory; an empty `train_runtime` most likely ran out of memory.

    Empty cells of other numeric columns do not apply to the row or were not recorded.
    """
    source = "foundation-model-stack/fms-acceleration, Apache-2.0"
    return read_csv(path, "fms_fine_tuning_a100", schemas.FMS, source)


def read_mpt(path: Source) -> Table:
    """Read MPT training throughput by sequence length; it has no code for missing."""
    source = "mosaicml/llm-foundry, Apache-2.0"
    return read_csv(path, "mpt_training_throughput", schemas.MPT, source)


def read_sailor(path: Source) -> Table:
    """Read per-layer forward, backward and update seconds; a backward of 0 is missing."""
    return read_csv(path, "sailor_layer_times", schemas.SAILOR, "eth-easl/sailor, MIT")


def read_aceso(path: Source) -> Table:
    """Read operators of transformer training alone on a GPU; 1e7 means out of memory.

    Times are in microseconds; sizes in MiB, as weights of known shape show.
    """
    return read_csv(path, "aceso_op_times_memory", schemas.ACESO, "eth-easl/sailor, MIT")


def read_vidur_send_recv(path: Source) -> Table:
    """Read Vidur's send/receive times between two A100; it has no code for missing.

    `devices_per_node` tells two GPUs of one machine (2) from two machines (1).
    """
    return read_csv(
        path, "vidur_send_recv_a100", schemas.VIDUR_SEND_RECV, "microsoft/vidur 7d47513, MIT"
    )


def read_hh_rlhf(path: Source) -> Table:
    """Read query and reference lengths of the hh-rlhf test split; it has no code for missing."""
    return read_csv(path, "hh_rlhf_test_lengths", schemas.HH_RLHF, "Anthropic hh-rlhf, MIT")


def read_gavel_isolated(path: Source) -> Table:
    """Read Gavel's training jobs alone on a GPU, steps per second; 0 means it does not fit."""
    source = "stanford-futuredata/gavel, MIT"
    return read_csv(path, "gavel_isolated", schemas.GAVEL_ISOLATED, source)


def read_gavel_pairs(path: Source) -> Table:
    """Read Gavel's pairs of training jobs on one GPU; 0 means that the pair does not fit.

    `rel1` and `rel2` are the rates together over those alone; empty where the job alone does not
    fit. Every pair of different jobs is there twice, in both orders.
    """
    return read_csv(path, "gavel_pairs", schemas.GAVEL_PAIRS, "stanford-futuredata/gavel, MIT")


_VLLM_PROFILE = "vLLM kernel times, casys-kaist/LLMServingSim, MIT"


def read_vllm_attention(path: Source) -> Table:
    """Read times of one layer's attention, a chunk of a prompt beside decodes; none is missing."""
    return read_csv(path, _stem(path), schemas.VLLM_ATTENTION, _VLLM_PROFILE)


def read_vllm_dense(path: Source) -> Table:
    """Read times of kernels that run over new tokens, one run each; none is missing."""
    return read_csv(path, _stem(path), schemas.VLLM_DENSE, _VLLM_PROFILE)


def read_vllm_per_sequence(path: Source) -> Table:
    """Read times of kernels that run over requests, one run each; none is missing."""
    return read_csv(path, _stem(path), schemas.VLLM_PER_SEQUENCE, _VLLM_PROFILE)


def _stem(path: Source) -> str:
    return Path(path).name.split(".")[0]
