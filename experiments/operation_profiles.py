"""Measured operations of all public tables, as rows that one time model can be fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from instances import load
from lemix_opt.checks import FloatArray
from lemix_opt.errors import FieldError, unknown
from lemix_opt.table import Table
from predictors.kernels import composed
from predictors.measured import MeasuredTimes
from predictors.model_shapes import ModelShape, model_shape, plain_shape
from predictors.operations import COLUMNS, operation_rows

_Text = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class OperationProfile:
    """Measured operations.

    Parameters
    ----------
    name : str
        Name of the table, and of what was timed where it times more than one thing.
    X : ndarray, shape (R, len(COLUMNS))
        Rows of `predictors.operations`.
    seconds : ndarray, shape (R,)
        Measured times.
    models, gpus : ndarray of str, shape (R,)
        Names of model and GPU type of every row.
    missing, implausible : int
        Rows left out because their time is missing, or because a smaller batch took over 1.25
        times as long, so that theirs was most likely not run in one piece.
    source, sha256 : str
        Where the rows come from, and the hash of the file.
    """

    name: str
    X: FloatArray
    seconds: FloatArray
    models: _Text
    gpus: _Text
    missing: int
    implausible: int
    source: str
    sha256: str

    @property
    def groups(self) -> _Text:
        """Model, GPU type and tensor-parallel GPUs of every row, shape (R,)."""
        tensor = self.X[:, COLUMNS.index("tensor")].astype(int).astype(str)
        parts = (self.models, self.gpus, tensor)
        return np.array([" ".join(row) for row in zip(*parts, strict=True)])


_Rows = tuple[FloatArray, FloatArray, str, str]


def _gather(name: str, table: Table, rows: Sequence[_Rows]) -> OperationProfile:
    """Put parts (operations, seconds, model, gpu) together, without missing times."""
    X, seconds = (np.concatenate([part[at] for part in rows]) for at in (0, 1))
    models, gpus = (
        np.concatenate([np.full(len(part[1]), part[at]) for part in rows]) for at in (2, 3)
    )
    here = np.isfinite(seconds) & (seconds > 0)
    missing = int(np.sum(~here))
    return OperationProfile(
        name,
        X[here],
        seconds[here],
        models[here],
        gpus[here],
        missing,
        0,
        f"{table.name}: {table.source}",
        table.sha256,
    )


def _without_implausible(profile: OperationProfile) -> OperationProfile:
    """Leave out runs that took less than smaller batches of the same group."""
    rows, length = (profile.X[:, COLUMNS.index(c)].astype(np.int64) for c in ("rows", "length"))
    kept = np.ones(len(profile.seconds), dtype=bool)
    for group in np.unique(profile.groups):
        own = np.flatnonzero(profile.groups == group)
        kept[own] = MeasuredTimes.plausible(rows[own] * length[own], profile.seconds[own])
    return replace(
        profile,
        X=profile.X[kept],
        seconds=profile.seconds[kept],
        models=profile.models[kept],
        gpus=profile.gpus[kept],
        implausible=int(np.sum(~kept)),
    )


def _each(table: Table, *names: str) -> list[tuple[tuple[object, ...], Table]]:
    """Rows of the table by the values of some columns, in order of appearance."""
    keys = list(zip(*(table[name].tolist() for name in names), strict=True))
    place = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    number = np.array([place[key] for key in keys])
    return [(key, table.where(number == at)) for key, at in place.items()]


def _muxserve(kind: str) -> OperationProfile:
    table = load("muxserve_llama_a100")
    rows = [
        (
            operation_rows(
                kind,
                model_shape(str(model)),
                "a100-80gb",
                rows=own["batch"],
                length=own["seqlen"],
                tensor=own["n_gpus"],
                sm_share=own["sm_pct"] / 100,
            ),
            own[f"{kind}_ms"] / 1e3,
            str(model),
            "a100-80gb",
        )
        for (model,), own in _each(table, "model")
    ]
    return _gather(f"muxserve-{kind}", table, rows)


_POWER_CAP = 0.77
"""Rate of a power-capped H100 next to a free one, as this table's prefills show it (about 1.3 times
as long); the cap itself is not in the file."""


def _splitwise() -> OperationProfile:
    table = load("splitwise_perf_model")
    rows: list[_Rows] = []
    for (model, gpu), own in _each(table, "model", "hardware"):
        capped = str(gpu).endswith("-pcap")
        X = operation_rows(
            "prefill",
            model_shape(str(model)),
            str(gpu).removesuffix("-pcap"),
            rows=own["batch_size"],
            length=own["prompt_size"],
            tensor=own["tensor_parallel"],
        )
        if capped:
            X = X.copy()
            X[:, COLUMNS.index("flops")] *= _POWER_CAP
        rows.append((X, own["prompt_time"] / 1e3, str(model), str(gpu)))
    return _without_implausible(_gather("splitwise-prefill", table, rows))


def _mpt() -> OperationProfile:
    table = load("mpt_training_throughput")
    rows: list[_Rows] = []
    for (model, gpu, precision), own in _each(table, "Model", "GPU", "Precision"):
        sheet = str(gpu).replace("_", "-")
        X = operation_rows(
            "iteration",
            model_shape(f"mpt-{model}"),
            sheet,
            rows=own["MicroBatchSize"],
            length=own["SeqLen (T)"],
            data=own["# GPUs"],
            micro_batches=own["GradAccum"],
            recompute=np.char.lower(own["Activation Checkpointing"].astype(str)) == "true",
            sharded=own["Sharding Strategy"] == "FULL_SHARD",
        )
        if precision == "amp_fp8":
            # 8-bit products run at twice the 16-bit peak (H100 data sheet).
            X = X.copy()
            X[:, COLUMNS.index("flops")] *= 2
        rows.append((X, own["step_s"], f"mpt-{model}", sheet))
    return _gather("mpt-step", table, rows)


def _vtrain() -> OperationProfile:
    table = load("vtrain_single_node")
    shape_columns = ("# layers", "hidden size", "attention heads")
    rows: list[_Rows] = []
    for (layers, hidden, heads), own in _each(table, *shape_columns):
        name = f"gpt {layers} x {hidden}"
        # The vocabulary is that of GPT-2, padded as Megatron pads it.
        shape = plain_shape(name, int(str(layers)), int(str(hidden)), int(str(heads)), 51200, "")
        replicas = own["data parallelism"]
        X = operation_rows(
            "iteration",
            shape,
            "a100-80gb",
            rows=own["micro batch"],
            length=own["sequence length"],
            tensor=own["tensor parallelism"],
            data=replicas,
            pipeline=own["pipeline parallelism"],
            micro_batches=own["global batch"] / own["micro batch"] / replicas,
        )
        rows.append((X, own["iteration time (ms)"] / 1e3, name, "a100-80gb"))
    return _gather("vtrain-iteration", table, rows)


_SAILOR_GPUS = {
    "A100-40": "a100-40gb",
    "A100-80": "a100-80gb",
    "V100-16": "v100-16gb",
    "GH-96": "gh200-96gb",
    "Titan-RTX": "titan-rtx",
    "RTX-2080": "rtx-2080-ti",
    "RTX-3090": "rtx-3090",
}
"""The table's RTX-2080 must be a Ti: matrix products (Aceso's operators, same repository) run at 57
Tflop/s in fp16 and 13 in fp32, where an RTX 2080 peaks at 42 and 10.6 and a Ti at 57 and 14.2."""
_SAILOR_MODELS = {
    "OPT-350": ("opt-350m", 2048),
    "OPT-30": ("opt-30b", 2048),
    "GPT-Neo-2.7": ("gpt-neo-2.7b", 2048),
    "LLAMA-3-8": ("llama3-8b", 8192),
}
"""Shape and sequence length: the layers' outputs hold length · hidden numbers."""
_SAILOR_SINGLE = {
    ("OPT-30", "A100-40"),
    ("OPT-30", "V100-16"),
    ("LLAMA-3-8", "A100-40"),
    ("LLAMA-3-8", "V100-16"),
}
"""Runs whose products were not in TF32. The file does not say so, but the rates do: on an A100-40,
whose fp32 units reach 19.5 Tflop/s, layers of GPT-Neo run at 69 and those of OPT-30 at 17; LLAMA
runs at 10 there, and on GH200 at 73 of 67. All parameters have 4 bytes (memory table)."""
_SAILOR_LAYER = 2
"""A transformer layer, which all models have; the others repeat its measurement."""


def _sailor() -> OperationProfile:
    table = load("sailor_layer_times")
    rows: list[_Rows] = []
    for (model, gpu), all_layers in _each(table, "model", "gpu"):
        own = all_layers.where(all_layers["layer"] == _SAILOR_LAYER)
        name, length = _SAILOR_MODELS[str(model)]
        for kind, column in (("forward", "fwd_s"), ("backward", "bwd_s"), ("update", "update_s")):
            X = operation_rows(
                kind,
                _one_layer(model_shape(name)),
                _SAILOR_GPUS[str(gpu)],
                precision="single" if (model, gpu) in _SAILOR_SINGLE else "tensor_float",
                rows=own["micro_batch"],
                length=length,
                tensor=own["tp"],
            )
            rows.append((X, own[column], name, _SAILOR_GPUS[str(gpu)]))
    return _gather("sailor-layer", table, rows)


def _one_layer(shape: ModelShape) -> ModelShape:
    body = shape.parameters - shape.embedding_parameters - shape.head_parameters
    return replace(shape, parameters=body / shape.layers, layers=1, vocabulary=0)


_ACESO_LENGTH = 2048
"""Tokens of a row: sizes of hidden states are 2 * 2048 * hidden bytes in fp16."""


def _aceso() -> OperationProfile:
    """Read forwards of a layer on one GPU, each the sum of its operators timed alone.

    Backwards are left out: matrix products take no longer backward than forward there, where the
    gradients of input and weights need two products, so one of them is most likely missing.
    """
    table = load("aceso_op_times_memory")
    inside = np.char.startswith(table["op_name"], "enc-") & (table["tp"] == 1)
    columns = ("model", "gpu", "precision", "micro_batch", "algo")
    rows: list[_Rows] = []
    for (model, gpu, precision, micro_batch, _), own in _each(table.where(inside), *columns):
        name, _ = _SAILOR_MODELS[str(model)]
        X = operation_rows(
            "forward",
            _one_layer(model_shape(name)),
            _SAILOR_GPUS[str(gpu)],
            precision="half" if precision == "fp16" else "tensor_float",
            rows=np.array([micro_batch]),
            length=_ACESO_LENGTH,
        )
        # A NaN, where one operator ran out of memory, makes the sum missing.
        seconds = np.array([own["forward-compute"].sum() / 1e6])
        rows.append((X, seconds, name, _SAILOR_GPUS[str(gpu)]))
    found = _gather("aceso-layer", table, rows)
    return replace(found, source=f"sums of operators timed alone: {found.source}")


_VLLM = "vllm_rtx4090_llama3_8b"


def _vllm(kind: str) -> OperationProfile:
    """Compose iterations of one chunk of a prompt behind cached tokens, or of decodes alone."""
    attention, dense, per_sequence = (
        load(f"{_VLLM}_{part}") for part in ("attention", "dense", "per_sequence")
    )
    shape = model_shape("llama3-8b")
    if kind == "prefill":
        alone = attention.where((attention["n_decode"] == 0) & (attention["prefill_chunk"] > 0))
        columns: dict[str, Any] = {
            "rows": np.ones(len(alone["prefill_chunk"])),
            "length": alone["prefill_chunk"],
            "context": alone["kv_prefill"],
        }
    else:
        alone = attention.where(attention["prefill_chunk"] == 0)
        columns = {"rows": alone["n_decode"], "length": alone["kv_decode"]}
    X = operation_rows(kind, shape, "rtx-4090", **columns)
    seconds = composed(alone, dense, per_sequence, shape)
    name = f"vllm-{'chunk' if kind == 'prefill' else 'decode'}"
    found = _gather(name, attention, [(X, seconds, "llama3-8b", "rtx-4090")])
    return replace(
        found,
        source=f"composed of measured kernels, without the time between them: {found.source}, "
        f"{dense.name} ({dense.sha256}), {per_sequence.name} ({per_sequence.sha256})",
    )


PROFILES: dict[str, Callable[[], OperationProfile]] = {
    "muxserve-prefill": lambda: _muxserve("prefill"),
    "muxserve-decode": lambda: _muxserve("decode"),
    "splitwise-prefill": _splitwise,
    "mpt-step": _mpt,
    "vtrain-iteration": _vtrain,
    "sailor-layer": _sailor,
    "aceso-layer": _aceso,
    "vllm-chunk": lambda: _vllm("prefill"),
    "vllm-decode": lambda: _vllm("decode"),
}
"""What was timed, by name."""


def read_operations(name: str) -> OperationProfile:
    """Read measured operations; an unknown name raises `UnknownNameError`.

    Raises
    ------
    FieldError
        If no row has a time.
    """
    if name not in PROFILES:
        raise unknown("profile of operations", name, PROFILES)
    found = PROFILES[name]()
    if not found.seconds.size:
        raise FieldError("no row with a time", where=name, expected="at least one")
    return found
