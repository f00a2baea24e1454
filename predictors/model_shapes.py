"""Shapes of published models, from which memory is computed."""

from __future__ import annotations

from dataclasses import dataclass

from lemix_opt.errors import unknown


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer.

    Parameters
    ----------
    name : str
        Name in the measured tables.
    parameters : float
        Number of parameters.
    layers, hidden, intermediate : int
        Transformer layers, width of the hidden state and of the MLP.
    heads, kv_heads : int
        Attention heads, and heads of keys and values.
    vocabulary : int
        Rows of the token embedding; 0 where it is not known.
    tied : bool
        Whether the output head shares the embedding's weights.
    source : str
        Where the figures come from.
    active_experts : int, default 1
        MLPs of width `intermediate` that one token passes in a layer.
    gated : bool, default True
        Whether the MLP has a gate beside its up projection.
    """

    name: str
    parameters: float
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    source: str
    active_experts: int = 1
    gated: bool = True

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values of one token over all layers, at 2 bytes a number."""
        return 4.0 * self.layers * self.hidden * self.kv_heads / self.heads

    @property
    def embedding_parameters(self) -> float:
        """Parameters of the token embedding, which the first stage holds."""
        return float(self.vocabulary * self.hidden)

    @property
    def head_parameters(self) -> float:
        """Parameters of the output head, which the last stage holds; 0 if tied."""
        return 0.0 if self.tied else self.embedding_parameters


_LLAMA = (
    "Touvron et al. 2023, arXiv 2302.13971, table 2; MLP width and vocabulary from the released "
    "configuration"
)
_LLAMA2 = "Touvron et al. 2023, arXiv 2307.09288; released configuration"
_MPT = "mosaicml/llm-foundry 8c8dd48, scripts/train/benchmarking; MPT configurations"
_OPT = "Zhang et al. 2022, arXiv 2205.01068, table 1"


def plain_shape(
    name: str, layers: int, hidden: int, heads: int, vocabulary: int, source: str
) -> ModelShape:
    """Return a GPT: MLP four times as wide, keys and values per head, tied output head."""
    parameters = 12.0 * layers * hidden**2 + vocabulary * hidden
    return ModelShape(
        name,
        parameters,
        layers,
        hidden,
        4 * hidden,
        heads,
        heads,
        vocabulary,
        True,
        source,
    )


SHAPES = {
    shape.name: shape
    for shape in (
        plain_shape("mpt-125m", 12, 768, 12, 50368, _MPT),
        plain_shape("mpt-350m", 24, 1024, 16, 50368, _MPT),
        plain_shape("mpt-760m", 24, 1536, 12, 50368, _MPT),
        plain_shape("mpt-1b", 24, 2048, 16, 50368, _MPT),
        plain_shape("mpt-3b", 32, 2560, 20, 50368, _MPT),
        plain_shape("mpt-7b", 32, 4096, 32, 50368, _MPT),
        plain_shape("mpt-13b", 40, 5120, 40, 50368, _MPT),
        plain_shape("mpt-30b", 48, 7168, 56, 50368, _MPT),
        plain_shape("mpt-70b", 80, 8192, 64, 50368, _MPT),
        plain_shape("opt-350m", 24, 1024, 16, 50272, _OPT),
        plain_shape("opt-30b", 48, 7168, 56, 50272, _OPT),
        plain_shape(
            "gpt-neo-2.7b", 32, 2560, 20, 50257, "EleutherAI gpt-neo-2.7B, released configuration"
        ),
        ModelShape("llama-7b", 6.7e9, 32, 4096, 11008, 32, 32, 32000, False, _LLAMA),
        ModelShape("llama-13b", 13.0e9, 40, 5120, 13824, 40, 40, 32000, False, _LLAMA),
        ModelShape("llama-30b", 32.5e9, 60, 6656, 17920, 52, 52, 32000, False, _LLAMA),
        ModelShape("llama-65b", 65.2e9, 80, 8192, 22016, 64, 64, 32000, False, _LLAMA),
        ModelShape("llama2-70b", 68.98e9, 80, 8192, 28672, 64, 8, 32000, False, _LLAMA2),
        ModelShape(
            "mistral-7b",
            7.24e9,
            32,
            4096,
            14336,
            32,
            8,
            32000,
            False,
            "Jiang et al. 2023, arXiv 2310.06825",
        ),
        ModelShape(
            "llama3-8b",
            8.03e9,
            32,
            4096,
            14336,
            32,
            8,
            128256,
            False,
            "Dubey et al. 2024, arXiv 2407.21783",
        ),
        ModelShape(
            "bloom-176b",
            176.2e9,
            70,
            14336,
            57344,
            112,
            112,
            250880,
            True,
            "Le Scao et al., arXiv 2211.05100",
            gated=False,
        ),
        ModelShape(
            "mixtral-8x7b",
            46.7e9,
            32,
            4096,
            14336,
            32,
            8,
            32000,
            False,
            "Jiang et al. 2024, arXiv 2401.04088",
            active_experts=2,
        ),
        ModelShape(
            "santacoder",
            1.124e9,
            24,
            2048,
            8192,
            16,
            1,
            49280,
            True,
            "Ben Allal et al. 2023, arXiv 2301.03988; released configuration",
            gated=False,
        ),
        ModelShape(
            "powerlm-3b",
            3.51e9,
            40,
            2304,
            9216,
            36,
            36,
            49152,
            True,
            "Shen et al. 2024, arXiv 2408.13359; released configuration",
        ),
        ModelShape(
            "granite-3.0-3b-a800m",
            3.3e9,
            32,
            1536,
            512,
            24,
            8,
            49155,
            True,
            "IBM Granite 3.0 language models, 2024; released configuration",
            active_experts=8,
        ),
        ModelShape(
            "granite-moe-7b-a1b",
            7.0e9,
            40,
            1536,
            512,
            24,
            8,
            49160,
            True,
            "IBM, 7 billion parameters of which 1 billion active by its name; other figures as in "
            "its family, not checked against a released configuration",
            active_experts=8,
        ),
    )
}


def model_shape(name: str) -> ModelShape:
    """Return the shape called `name`; an unknown name raises `UnknownNameError`."""
    if name not in SHAPES:
        raise unknown("model shape", name, SHAPES)
    return SHAPES[name]
