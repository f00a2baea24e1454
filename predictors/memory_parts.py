"""What the peak memory of a training run consists of, part by part, from shapes alone.

Every part is bytes on one GPU. `PHASES` says which parts are there at once: at the optimizer's
step, at the loss, and in a layer's backward; the peak is the largest of the three sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, choice, floats, whole
from lemix_opt.errors import FieldError
from predictors.model_shapes import ModelShape

PARTS = (
    "weights",
    "moments",
    "step",
    "held_gradients",
    "gathered",
    "checkpoints",
    "second_checkpoints",
    "activations",
    "layer",
    "hidden",
    "logits",
    "longest_padded",
    "longest_free",
)
"""Columns of `training_parts`."""

_ALWAYS = ("weights", "moments")
_WORK = (
    *_ALWAYS,
    "held_gradients",
    "gathered",
    "checkpoints",
    "activations",
    "longest_padded",
    "longest_free",
)
PHASES = tuple(
    tuple(PARTS.index(name) for name in names)
    for names in (
        (*_ALWAYS, "step"),
        (*_WORK, "hidden", "logits"),
        (*_WORK, "second_checkpoints", "layer"),
    )
)
"""Columns that are there at once: at the step, at the loss, in a layer's backward."""

METHODS = ("full", "lora")
PADDINGS = ("packed", "padded", "free")
LONGEST = 5.0
"""Longest sample of a run over the mean, where lengths vary: what 2,000 log-normal lengths with a
standard deviation of their logarithm of 0.5 come to (0.5·3.4 − 0.5²/2 = 1.6 in the logarithm)."""

_ADAPTED = 8
"""Matrices' sides per layer that LoRA on q, k, v and o adds r rows to, in units of hidden."""


@dataclass(frozen=True)
class TrainingRun:
    """How a model is trained, on every one of its GPUs.

    Parameters
    ----------
    rows : int
        Samples of a micro-batch on one GPU.
    length : float
        Mean tokens of a sample, padding included.
    gpus : int, default 1
        GPUs that weights, gradients and moments are sharded over (FSDP, ZeRO stage 3).
    method : {"full", "lora"}, default "full"
        Whether all weights are trained, or adapters of q, k, v and o.
    weight_bits : float, default 16
        Bits per number of the weights in the layers; below 16 they are quantised and frozen.
    rank : int, default 0
        Rank of LoRA's adapters.
    master_bytes : float, default 2
        Bytes per number of trained weights, gradients and moments as they are kept: 2 in pure
        16-bit training, 4 where sharded mixed precision keeps 32-bit ones.
    checkpointing : bool, default True
        Whether only the input of every layer is kept and the layer computed again.
    wide_checkpoints : bool, default False
        Whether hidden states are 32-bit, as with norms cast up for quantised training.
    fused_kernels : bool, default False
        Whether the loss is computed in place (8 bytes per logit instead of 12).
    fused_loss : bool, default False
        Whether logits are never there at once (output head and loss in one kernel).
    accumulation : int, default 1
        Micro-batches per step; above 1 gradients stay, whole also where weights are sharded.
    expert_parallel : int, default 1
        GPUs that experts are spread over; each holds the gradients of its own.
    padding : {"packed", "padded", "free"}, default "packed"
        Whether samples are all of one length; or vary and are padded to the longest of their
        batch; or vary and are laid end to end.

    Raises
    ------
    FieldError
        For a value out of its range.
    """

    rows: int
    length: float
    gpus: int = 1
    method: str = "full"
    weight_bits: float = 16.0
    rank: int = 0
    master_bytes: float = 2.0
    checkpointing: bool = True
    wide_checkpoints: bool = False
    fused_kernels: bool = False
    fused_loss: bool = False
    accumulation: int = 1
    expert_parallel: int = 1
    padding: str = "packed"

    def __post_init__(self) -> None:
        for name in ("rows", "gpus", "accumulation", "expert_parallel"):
            whole(name, getattr(self, name), minimum=1)
        whole("rank", self.rank, minimum=0)
        for name in ("length", "weight_bits", "master_bytes"):
            floats(name, getattr(self, name), (), above=0)
        choice("method", self.method, METHODS)
        choice("padding", self.padding, PADDINGS)
        if self.method == "full" and self.weight_bits < 16:
            raise FieldError(
                f"{self.weight_bits:g} bits",
                where="weight_bits",
                expected="16 for full training: quantised weights are frozen",
            )


def training_parts(shape: ModelShape, run: TrainingRun) -> FloatArray:
    """Bytes of every part on one GPU, in the order of `PARTS`, shape (13,).

    With P parameters, g GPUs, b rows of l tokens, n = b·l tokens, L layers of width h and MLPs of
    width I (e of them active), vocabulary V, and m bytes of a trained number:

    - weights: P·m/g; quantised ones bits/8 bytes, embedding and head 2 bytes (Dettmers et al.
      2023), plus adapters.
    - moments: two per trained number (Adam), 2·P·m/g.
    - step: gradients, and one temporary of the same size that torch's multi-tensor AdamW
      makes, 2·P·m/g.
    - held_gradients: where micro-batches are summed, gradients stay while the next one runs; a
      sharded run that does not synchronise in between holds them whole, at 2 bytes
      (FSDP `no_sync`), experts apart.
    - gathered: what sharding collects to compute with, embedding, head and two layers (the one at
      work and the one fetched ahead; Zhao et al. 2023, arXiv 2304.11277).
    - checkpoints: n·L·h numbers of 2 bytes, or 4 (Chen et al. 2016, arXiv 1604.06174).
    - second_checkpoints: the same again, in sharded training of adapters only. Observed, not
      derived.
    - activations: without checkpointing, L times what a layer keeps.
    - layer: what one layer keeps for its backward, n·2·(2h + h·(2 + 2·kv/heads) + 2h + k·e·I)
      numbers, k = 4 with a gate and 2 without (Korthikanti et al. 2022, section 4, without
      dropout masks and attention matrix), and the gradients of its MLP, n·2·e·I·k/2.
    - hidden: 8 numbers of width h per token around the loss.
    - logits: n·V times 12 bytes: 16-bit, cast up to 32-bit, and a 32-bit gradient, which makes
      10, and 2 for its cast back; 8 where the gradient takes the place of the logits; 0 with a
      fused output head and loss (Hsu et al. 2024, arXiv 2410.10989).
    - longest_padded, longest_free: where lengths vary, what the largest batch of a run holds
      beyond a mean one: b·(c − 1)·l tokens padded, (c − 1)·l laid end to end, c = `LONGEST`.
    """
    mine, gpus, tokens = 2.0, float(run.gpus), run.rows * run.length
    ends = shape.embedding_parameters + shape.head_parameters
    inner = shape.parameters - ends
    full = run.method == "full"
    adapters = 0.0 if full else run.rank * _ADAPTED * shape.hidden * shape.layers
    trained = shape.parameters if full else adapters
    if full:
        weights = shape.parameters * run.master_bytes
    else:
        weights = mine * ends + inner * run.weight_bits / 8 + adapters * run.master_bytes
    layer_bytes = (mine if run.weight_bits >= 16 else run.weight_bits / 8) * inner / shape.layers
    sharded, spread = run.gpus > 1, float(run.expert_parallel)
    checkpoint = tokens * shape.layers * shape.hidden * (4.0 if run.wide_checkpoints else mine)
    projections = 4 if shape.gated else 2
    mlp = shape.active_experts * shape.intermediate
    attention = shape.hidden * (6 + 2 * shape.kv_heads / shape.heads)
    kept = tokens * mine * (attention + projections * mlp)
    layer = kept + tokens * mine * mlp * projections / 2
    hidden = tokens * 8 * mine * shape.hidden
    logit = 0.0 if run.fused_loss else (8.0 if run.fused_kernels else 12.0)
    logits = tokens * shape.vocabulary * logit
    activations = 0.0 if run.checkpointing else shape.layers * kept
    between = checkpoint if run.checkpointing else activations
    per_token = (between + max(layer, logits + hidden)) / tokens
    varied = (LONGEST - 1) * run.length * per_token
    parts = {
        "weights": weights / gpus,
        "moments": 2 * trained * run.master_bytes / gpus,
        "step": 2 * trained * run.master_bytes / gpus,
        "held_gradients": trained * mine / spread if run.accumulation > 1 else 0.0,
        "gathered": mine * ends + 2 * layer_bytes if sharded else 0.0,
        "checkpoints": checkpoint if run.checkpointing else 0.0,
        "second_checkpoints": checkpoint if sharded and not full else 0.0,
        "activations": activations,
        "layer": layer,
        "hidden": hidden,
        "logits": logits,
        "longest_padded": run.rows * varied if run.padding == "padded" else 0.0,
        "longest_free": varied if run.padding == "free" else 0.0,
    }
    return np.array([parts[name] for name in PARTS])
