"""Token generation: the rule by which requests share iterations, and what an iteration takes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray, arrays_equal, choice, floats, whole
from lemix_opt.errors import FieldError

GENERATION_RULES = ("continuous", "reference")


@dataclass(frozen=True, eq=False)
class IterationCosts:
    """Seconds of one iteration of a running batch, by what the batch holds.

    On a stage an iteration takes ``base_s + per_prefill_token_s · new prompt tokens +
    per_prefill_pair_s · Σ (new tokens · context they see) + per_decode_s · decoding requests +
    per_context_token_s · Σ context of decoding requests``. The context of a prompt that is
    prefilled at once is the prompt; that of a decoding request is its prompt and all tokens made
    so far. In an iteration that prefills as well, decoding requests add ``per_mixed_decode_s`` each
    and ``per_mixed_context_token_s`` per token of context: attention runs in one kernel then, whose
    tiles suit prompts.

    What runs token by token (projections, MLP) may be added as a curve instead of a line, since it
    is bound by reading weights up to some hundred tokens and by arithmetic beyond, in steps of a
    kernel's tiles: ``token_s`` at ``token_knots`` new tokens (of prompts, and one per decode),
    linear between knots, constant before the first and along the last piece beyond the last.

    Parameters
    ----------
    base_s : array_like, shape (K, S)
        Seconds of an iteration by node class and stage, more than 0.
    per_prefill_token_s, per_prefill_pair_s : array_like, shape (K, S), default 0
        Seconds per new prompt token, and per new token and token of its context.
    per_decode_s, per_context_token_s : array_like, shape (K, S), default 0
        Seconds per decoding request, and per token of its context.
    kv_bytes_per_token : array_like, shape (K, S), default 0
        Bytes of keys and values of one token.
    hop_s : array_like, shape (K, S-1), default 0
        Seconds from the end of an iteration on one stage to its start on the next.
    per_mixed_decode_s, per_mixed_context_token_s : array_like, shape (K, S), default 0
        More seconds per decoding request, and per token of its context, beside prefills.
    token_knots : array_like, shape (P,), default none
        Rising numbers of new tokens.
    token_s : array_like, shape (K, S, P), default none
        Seconds at each.

    Raises
    ------
    FieldError
        If a field has the wrong shape, is not finite or is negative, a base is not positive, or
        knots do not rise.
    """

    base_s: FloatArray
    per_prefill_token_s: FloatArray = 0.0  # type: ignore[assignment]
    per_prefill_pair_s: FloatArray = 0.0  # type: ignore[assignment]
    per_decode_s: FloatArray = 0.0  # type: ignore[assignment]
    per_context_token_s: FloatArray = 0.0  # type: ignore[assignment]
    kv_bytes_per_token: FloatArray = 0.0  # type: ignore[assignment]
    hop_s: FloatArray = 0.0  # type: ignore[assignment]
    per_mixed_decode_s: FloatArray = 0.0  # type: ignore[assignment]
    per_mixed_context_token_s: FloatArray = 0.0  # type: ignore[assignment]
    token_knots: FloatArray = field(default_factory=lambda: np.empty(0))
    token_s: FloatArray = 0.0  # type: ignore[assignment]

    def __post_init__(self) -> None:
        base = floats("iteration.base_s", self.base_s, above=0)
        if base.ndim != 2 or 0 in base.shape:
            raise FieldError(
                f"shape {base.shape}", where="iteration.base_s", expected="(node classes, stages)"
            )
        object.__setattr__(self, "base_s", base)
        classes, stages = base.shape
        knots = floats("iteration.token_knots", self.token_knots, minimum=0)
        if knots.ndim != 1 or np.any(np.diff(knots) <= 0):
            raise FieldError(
                f"{knots.tolist()!r:.60}", where="iteration.token_knots", expected="rising numbers"
            )
        object.__setattr__(self, "token_knots", knots)
        shapes = {"hop_s": (classes, stages - 1), "token_s": (classes, stages, knots.size)}
        for name in (f.name for f in fields(self)[1:] if f.name != "token_knots"):
            shape = shapes.get(name, (classes, stages))
            value = floats(f"iteration.{name}", getattr(self, name), shape, minimum=0)
            object.__setattr__(self, name, value)

    def seconds(
        self,
        node_class: npt.ArrayLike,
        prefill_tokens: npt.ArrayLike,
        prefill_pairs: npt.ArrayLike,
        decodes: npt.ArrayLike = 0,
        context_tokens: npt.ArrayLike = 0,
    ) -> FloatArray:
        """Seconds of iterations on every stage, shape (..., S).

        Parameters
        ----------
        node_class : array_like of int
            Class of the node.
        prefill_tokens, prefill_pairs : array_like
            New prompt tokens, and Σ new tokens · context.
        decodes, context_tokens : array_like, default 0
            Decoding requests, and Σ of their contexts in tokens.
        """
        kind = np.asarray(node_class)

        def times(coefficients: FloatArray, amount: npt.ArrayLike) -> FloatArray:
            return np.asarray(coefficients[kind] * np.asarray(amount, np.float64)[..., None])

        mixed = np.asarray(prefill_tokens) > 0
        return np.asarray(
            self.base_s[kind]
            + times(self.per_prefill_token_s, prefill_tokens)
            + times(self.per_prefill_pair_s, prefill_pairs)
            + times(self.per_decode_s, decodes)
            + times(self.per_context_token_s, context_tokens)
            + times(self.per_mixed_decode_s, mixed * np.asarray(decodes))
            + times(self.per_mixed_context_token_s, mixed * np.asarray(context_tokens))
            + self.by_tokens_s(kind, np.asarray(prefill_tokens) + np.asarray(decodes))
        )

    def by_tokens_s(self, node_class: npt.ArrayLike, tokens: npt.ArrayLike) -> FloatArray:
        """Seconds of the curve over new tokens on every stage, shape (..., S); 0 without knots."""
        kind, knots = np.asarray(node_class), self.token_knots
        if not knots.size:
            return np.zeros((1, self.base_s.shape[1]))
        amount = np.maximum(np.asarray(tokens, np.float64), knots[0])
        at = np.clip(np.searchsorted(knots, amount, side="right") - 1, 0, max(knots.size - 2, 0))
        after = np.minimum(at + 1, knots.size - 1)
        width = np.where(after > at, knots[after] - knots[at], 1.0)
        share = ((amount - knots[at]) / width)[..., None]
        stages = np.arange(self.base_s.shape[1])
        low, high = (
            self.token_s[kind[..., None], stages, place[..., None]] for place in (at, after)
        )
        return np.asarray(np.maximum(low + share * (high - low), 0.0))

    def alone_s(
        self, node_class: int, prompt_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike
    ) -> FloatArray:
        """Seconds from start to last token of requests that run alone, shape (...).

        The prompt is prefilled in one iteration.
        """
        prompt = np.asarray(prompt_tokens, np.float64)
        later = np.asarray(output_tokens, np.float64) - 1
        context = prompt * later + later * (later + 1) / 2
        prefill = self.seconds(node_class, prompt, prompt**2).sum(axis=-1)
        # All decodes at once: what one of them takes whatever its context, and all contexts.
        each = float(self.seconds(node_class, 0, 0, 1).sum())
        by_context = context * float(self.per_context_token_s[node_class].sum())
        hops = (later + 1) * float(self.hop_s[node_class].sum())
        return np.asarray(prefill + later * each + by_context + hops)

    def scaled(self, factor: FloatArray) -> IterationCosts:
        """Return these costs with seconds times a factor per node class, shape (K,).

        A single class is repeated for every factor. Bytes and hops stay.
        """
        each = np.asarray(factor, np.float64)[:, None]
        columns = {}
        for name in (f.name for f in fields(self) if f.name != "token_knots"):
            value = getattr(self, name)
            whole = np.broadcast_to(value, (len(each), *value.shape[1:]))
            stays = name in ("kv_bytes_per_token", "hop_s")
            columns[name] = whole if stays else whole * each.reshape(-1, *[1] * (value.ndim - 1))
        return IterationCosts(**columns, token_knots=self.token_knots)

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Generation:
    """How the requests of a node are batched, iteration by iteration.

    One iteration of a node is under way at a time; it runs through the stages like the forward of
    one task, beside training.

    ``continuous`` is what engines with a KV cache do. At every boundary finished requests have
    left, and waiting ones join in order of arrival while cap, token budget and memory allow.
    Prefills and decodes share iterations. A request takes the KV memory of its whole prompt when
    it joins and of one token per decode; where growth does not fit, the youngest request gives
    its memory up, goes back to the head of the queue, and is prefilled again with the tokens it
    has made. A request whose prompt and output would not fit on an empty GPU is dropped when it
    arrives; an instance is refused if none of its nodes could hold them. With `ahead` and
    `keep_prefix` it is the rule of vLLM's V1 engine, but for the blocks its KV cache comes in.

    ``reference`` is the published LeMix program (pejoule/LeMix, a87f280), for fidelity: every
    iteration is a prefill of all rows at the longest length; the first stage, held meanwhile,
    waits `wait_s` for each further request and stops at a training task; when the padded length
    of an iteration has reached `clear_tokens`, all its requests end, cut off or not; and an
    iteration starts only when a further request is taken from the queue, so that the last ones
    stay unfinished. It holds no KV memory.

    Parameters
    ----------
    rule : {"continuous", "reference"}, default "continuous"
        See above.
    batch_cap : int, default 256
        Most requests in a node's running batch.
    chunk_tokens : int, optional
        Most tokens of one iteration, at least `batch_cap`: every decode counts one, prefills
        share the rest and are cut where it ends. Whole prompts when omitted.
    wait_s : float, default 0.1
        Seconds of one wait, ``reference`` only.
    clear_tokens : int, default 128
        Padded length at which a batch is cleared, ``reference`` only.
    least_tokens : int, default 10
        Tokens made before a request may end by itself, ``reference`` only.
    ahead : bool, default False
        Whether an iteration is formed when the one before it starts instead of when it ends, as
        asynchronous schedulers do so that the GPU never waits for them: who arrives meanwhile joins
        one iteration later, and memory that is given up is there one iteration later.
        ``continuous`` only.
    keep_prefix : bool, default False
        Whether a preempted request is prefilled again only from where others have overwritten its
        memory, which is taken from the longest free first, and of one request from its end
        (automatic prefix caching). ``continuous`` only, without training tasks: their memory would
        overwrite it as well.

    Raises
    ------
    FieldError
        If a field is out of range or does not go with the rule.
    """

    rule: str = "continuous"
    batch_cap: int = 256
    chunk_tokens: int | None = None
    wait_s: float = 0.1
    clear_tokens: int = 128
    least_tokens: int = 10
    ahead: bool = False
    keep_prefix: bool = False

    def __post_init__(self) -> None:
        choice("generation.rule", self.rule, GENERATION_RULES)
        for name, least in (("batch_cap", 1), ("clear_tokens", 1), ("least_tokens", 1)):
            value = whole(f"generation.{name}", getattr(self, name), minimum=least)
            object.__setattr__(self, name, value)
        wait = float(floats("generation.wait_s", self.wait_s, (), minimum=0))
        object.__setattr__(self, "wait_s", wait)
        for name in ("ahead", "keep_prefix"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise FieldError(f"{value!r}", where=f"generation.{name}", expected="True or False")
            if value and self.rule != "continuous":
                raise FieldError(
                    f"True under rule {self.rule!r}",
                    where=f"generation.{name}",
                    expected="False, or rule 'continuous'",
                )
        if self.chunk_tokens is None:
            return
        if self.rule != "continuous":
            raise FieldError(
                f"{self.chunk_tokens} under rule {self.rule!r}",
                where="generation.chunk_tokens",
                expected="None, or rule 'continuous'",
            )
        # Fewer could not hold one token of every decoding request.
        chunk = whole("generation.chunk_tokens", self.chunk_tokens, minimum=self.batch_cap)
        object.__setattr__(self, "chunk_tokens", chunk)

    def held_tokens(self, prompt_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike) -> IntArray:
        """Return how many tokens' KV memory requests hold at most; the last one made needs none."""
        tokens = np.add(prompt_tokens, output_tokens, dtype=np.int64) - 1
        return np.asarray(tokens if self.rule == "continuous" else 0 * tokens)
