"""What token generation did: first and last token of every request, and all iterations."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray, arrays_equal, floats, integers
from lemix_opt.errors import FieldError


@dataclass(frozen=True, eq=False)
class Iterations:
    """One row per iteration of a node's running batch, in order of their ends, then of nodes.

    Parameters
    ----------
    node : array_like of int, shape (I,)
        Where it ran.
    start_s, end_s : array_like, shape (I, S)
        Seconds, by stage.
    prefills, prefill_tokens, prefill_pairs : array_like of int, shape (I,)
        Requests of which prompt tokens were processed, how many tokens, and Σ tokens · context.
        Under the rule ``reference`` all rows count here, at the padded length.
    decodes, context_tokens : array_like of int, shape (I,)
        Requests that decoded, and Σ of their contexts.
    kv_tokens : array_like of int, shape (I,)
        Tokens whose keys and values the node held.

    Raises
    ------
    FieldError
        If a column has the wrong shape or is out of range, or an end is before its start.
    """

    node: IntArray
    start_s: FloatArray
    end_s: FloatArray
    prefills: IntArray
    prefill_tokens: IntArray
    prefill_pairs: IntArray
    decodes: IntArray
    context_tokens: IntArray
    kv_tokens: IntArray

    def __post_init__(self) -> None:
        start = floats("iterations.start_s", self.start_s, minimum=0)
        if start.ndim != 2:
            raise FieldError(
                f"shape {start.shape}", where="iterations.start_s", expected="(iterations, stages)"
            )
        end = floats("iterations.end_s", self.end_s, start.shape, minimum=0)
        if np.any(end < start):
            row, stage = (int(at) for at in np.argwhere(end < start)[0])
            raise FieldError(
                f"end {end[row, stage]:g} s",
                where=f"iterations.end_s[{row}, {stage}]",
                expected=f"at least its start, {start[row, stage]:g} s",
            )
        object.__setattr__(self, "start_s", start)
        object.__setattr__(self, "end_s", end)
        for name in (f.name for f in fields(self) if f.name not in ("start_s", "end_s")):
            column = integers(f"iterations.{name}", getattr(self, name), start.shape[:1], minimum=0)
            object.__setattr__(self, name, column)

    @classmethod
    def trusted(
        cls, start_s: FloatArray, end_s: FloatArray, *counts: npt.NDArray[Any]
    ) -> Iterations:
        """Wrap columns of the engine that are valid as they are, without a check or a copy.

        The counts, `node` first, may be of any integer type; see `__getattr__`.
        """
        rows = object.__new__(cls)
        for name, column in (("start_s", start_s), ("end_s", end_s)):
            column.flags.writeable = False
            object.__setattr__(rows, name, column)
        names = [f.name for f in fields(cls) if f.name not in ("start_s", "end_s")]
        object.__setattr__(rows, "_narrow", dict(zip(names, counts, strict=True)))
        return rows

    if not TYPE_CHECKING:  # It would let any name pass.

        def __getattr__(self, name: str) -> IntArray:
            """Return a count at full width: products of narrow integers overflow in silence."""
            narrow = self.__dict__.get("_narrow", {})
            if name not in narrow:
                raise AttributeError(f"iterations have no {name!r}", name=name, obj=self)
            column = narrow[name].astype(np.int64)
            column.flags.writeable = False
            object.__setattr__(self, name, column)
            return column

    def stored(self, name: str) -> npt.NDArray[Any]:
        """Return a count as it is stored; products of its narrow integers overflow in silence."""
        narrow = self.__dict__.get("_narrow", {})
        return narrow[name] if name in narrow else np.asarray(getattr(self, name))

    def part(self, name: str, rows: slice | IntArray) -> IntArray:
        """Return some rows of a count at full width; unlike an attribute, it is not kept."""
        return np.asarray(self.stored(name)[rows], dtype=np.int64)

    @property
    def rows(self) -> int:
        """Number of iterations I."""
        return int(self.start_s.shape[0])

    @property
    def request_steps(self) -> int:
        """Requests in the batch, summed over iterations."""
        return int(np.sum(self.prefills) + np.sum(self.decodes))

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Generated:
    """Tokens of every request, and the iterations that made them.

    Parameters
    ----------
    start_s, first_token_s, last_token_s : array_like, shape (T,)
        Start of the first iteration a request was in, and ends of the iterations that made its
        first and its latest token; infinity where there is none, as for training tasks.
    tokens : array_like of int, shape (T,)
        Tokens made.
    preemptions : array_like of int, shape (T,)
        How often a request gave up its memory and was prefilled again.
    iterations : Iterations
        All iterations of all nodes.
    """

    start_s: FloatArray
    first_token_s: FloatArray
    last_token_s: FloatArray
    tokens: IntArray
    preemptions: IntArray
    iterations: Iterations

    def __post_init__(self) -> None:
        tokens = integers("generated.tokens", self.tokens, minimum=0)
        object.__setattr__(self, "tokens", tokens)
        count = integers("generated.preemptions", self.preemptions, tokens.shape, minimum=0)
        object.__setattr__(self, "preemptions", count)
        for name in ("start_s", "first_token_s", "last_token_s"):
            value = floats(
                f"generated.{name}", getattr(self, name), tokens.shape, minimum=0, infinite=True
            )
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def trusted(kind: Any, *columns: npt.NDArray[Any] | Iterations) -> Any:
    """Wrap columns of the engine that are valid as they are, without a check or a copy."""
    made = object.__new__(kind)
    for field, column in zip(fields(kind), columns, strict=True):
        if isinstance(column, np.ndarray):
            column.flags.writeable = False
        object.__setattr__(made, field.name, column)
    return made
