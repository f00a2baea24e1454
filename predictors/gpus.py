"""Peak rates of GPUs from their data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from lemix_opt.checks import choice
from lemix_opt.errors import unknown

PRECISIONS = ("half", "tensor_float", "single")
"""Numbers of 2 bytes; of 4 with products in TF32 where a type has it; of 4 throughout."""
GB = 1e9
TERA = 1e12


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says of a GPU; rates are dense, without structured sparsity.

    Parameters
    ----------
    name : str
        Name of the type.
    half_flops : float
        FLOP/s of fp16 or bf16 matrix products with fp32 accumulation.
    tensor_float_flops : float
        FLOP/s of fp32 numbers in tensor cores (TF32); those of fp32 where the type has none.
    single_flops : float
        FLOP/s of fp32 outside tensor cores.
    bandwidth : float
        Bytes/s of its memory.
    memory_bytes : float
        Its memory, in the data sheet's decimal gigabytes.
    link : float
        Bytes/s to another GPU of the machine, both directions together: NVLink where it joins
        all GPUs of a machine, else PCIe, also for types whose bridge joins pairs.
    sms : int
        Streaming multiprocessors.
    source : str
        Where the figures come from.
    """

    name: str
    half_flops: float
    tensor_float_flops: float
    single_flops: float
    bandwidth: float
    memory_bytes: float
    link: float
    sms: int
    source: str

    def flops(self, precision: str) -> float:
        """Return the peak FLOP/s of matrix products in one of `PRECISIONS`."""
        rates = (self.half_flops, self.tensor_float_flops, self.single_flops)
        return rates[PRECISIONS.index(choice("precision", precision, PRECISIONS))]


_AMPERE = "NVIDIA A100 Tensor Core GPU data sheet and architecture white paper (SXM4)"
_HOPPER = "NVIDIA H100 Tensor Core GPU data sheet and architecture white paper (SXM5)"
_TURING = "NVIDIA Turing GPU architecture white paper, appendices"
_GEFORCE = "NVIDIA Ampere GA102 GPU architecture white paper"


def _gpu(
    name: str,
    half: float,
    tensor_float: float,
    single: float,
    bandwidth: float,
    memory: float,
    link: float,
    sms: int,
    source: str,
) -> Gpu:
    """Build an entry from Tflop/s, GB/s and GB."""
    return Gpu(
        name,
        half * TERA,
        tensor_float * TERA,
        single * TERA,
        bandwidth * GB,
        memory * GB,
        link * GB,
        sms,
        source,
    )


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100-40gb", 312, 156, 19.5, 1555, 40, 600, 108, _AMPERE),
        _gpu("a100-80gb", 312, 156, 19.5, 2039, 80, 600, 108, _AMPERE),
        _gpu("h100-80gb", 989.4, 494.7, 66.9, 3350, 80, 900, 132, _HOPPER),
        _gpu("h200-141gb", 989.4, 494.7, 66.9, 4800, 141, 900, 132, "NVIDIA H200 data sheet (SXM)"),
        _gpu(
            "gh200-96gb",
            989.4,
            494.7,
            66.9,
            4000,
            96,
            900,
            132,
            "NVIDIA GH200 data sheet, 96 GB HBM3",
        ),
        _gpu("v100-16gb", 125, 15.7, 15.7, 900, 16, 300, 80, "NVIDIA V100 data sheet (SXM2)"),
        _gpu("t4-16gb", 65, 8.1, 8.1, 320, 16, 32, 40, _TURING),
        _gpu("titan-rtx", 130.5, 16.3, 16.3, 672, 24, 32, 72, "NVIDIA Titan RTX product page"),
        _gpu("rtx-2080", 42.4, 10.6, 10.6, 448, 8, 32, 46, _TURING),
        _gpu("rtx-2080-ti", 56.9, 14.2, 14.2, 616, 11, 32, 68, _TURING),
        _gpu("rtx-3090", 71, 35.6, 35.6, 936, 24, 64, 82, _GEFORCE),
        _gpu(
            "rtx-4090",
            165.2,
            82.6,
            82.6,
            1008,
            24,
            64,
            128,
            "NVIDIA Ada GPU architecture white paper",
        ),
        _gpu("rtx-a6000", 154.8, 77.4, 38.7, 768, 48, 64, 84, "NVIDIA RTX A6000 data sheet"),
        _gpu("a10-24gb", 125, 62.5, 31.2, 600, 24, 64, 72, "NVIDIA A10 data sheet"),
        _gpu("a30-24gb", 165, 82.6, 10.3, 933, 24, 64, 56, "NVIDIA A30 data sheet"),
        _gpu("a40-48gb", 149.7, 74.8, 37.4, 696, 48, 64, 84, "NVIDIA A40 data sheet"),
        _gpu("l4-24gb", 121, 60.5, 30.3, 300, 24, 64, 58, "NVIDIA L4 data sheet, dense"),
        _gpu("l40s-48gb", 362, 181, 91.6, 864, 48, 64, 142, "NVIDIA L40S data sheet, dense"),
    )
}
"""Known types by name."""


def gpu_type(name: str) -> Gpu:
    """Return the GPU called `name`; an unknown name raises `UnknownNameError`."""
    if name not in GPUS:
        raise unknown("GPU type", name, GPUS)
    return GPUS[name]
