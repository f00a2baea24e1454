"""The tasks: what arrives, when, how long, and what is due."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray, arrays_equal, floats, integers
from lemix_opt.errors import FieldError

INFERENCE = 0
TRAINING = 1
COLUMNS = (
    "kind",
    "release_s",
    "batch",
    "prompt_tokens",
    "output_tokens",
    "weight",
    "slo_s",
)
"""Fields of a workload with one entry per task."""
MOST_TOKENS = 2**31
"""Rows of a batch, and tokens of a prompt."""
MOST_OUTPUT_TOKENS = 2**20
"""Tokens that a request may generate: each takes an iteration of its node."""
FINEST_S = 1e-9
"""Largest distance of neighbouring floats at a release."""


@dataclass(frozen=True, eq=False)
class Workload:
    """T tasks in columns; the task's id is its row.

    Parameters
    ----------
    kind : array_like of int, shape (T,)
        0 inference, 1 training.
    release_s : array_like, shape (T,)
        Own release times in seconds, non-decreasing within each kind.
    batch : array_like of int, shape (T,)
        Rows of the batch, at least 1.
    prompt_tokens : array_like of int, shape (T,)
        Padded length of every row in tokens, at least 1.
    output_tokens : array_like of int, shape (T,), default 0
        Tokens to generate, at most `MOST_OUTPUT_TOKENS`; made where the instance has a rule of
        generation.
    weight : array_like, shape (T,), default 1
        Weight of the task in response and lateness terms.
    slo_s : array_like, shape (T,), default infinity
        Response time in seconds beyond which the task is late.
    origin_ns : int, default 0
        Nanoseconds on the clock of the source at which `release_s` is 0.

    Raises
    ------
    FieldError
        If a field has the wrong shape, is not finite, is out of range, or releases go back; also
        for a release so late that floats around it are more than `FINEST_S` apart.

    See Also
    --------
    lemix_opt.clock.since_first : seconds since the first of exact time stamps.
    """

    kind: IntArray
    release_s: FloatArray
    batch: IntArray
    prompt_tokens: IntArray
    output_tokens: IntArray = 0  # type: ignore[assignment]
    weight: FloatArray = 1.0  # type: ignore[assignment]
    slo_s: FloatArray = np.inf  # type: ignore[assignment]
    origin_ns: int = 0

    def __post_init__(self) -> None:
        kind = integers("kind", self.kind, minimum=0, maximum=1)
        if kind.ndim != 1:
            raise FieldError(f"shape {kind.shape}", where="kind", expected="one dimension")
        shape = kind.shape
        checked = {
            "kind": kind,
            "release_s": floats("release_s", self.release_s, shape, minimum=0),
            "batch": integers("batch", self.batch, shape, minimum=1, maximum=MOST_TOKENS),
            "prompt_tokens": integers(
                "prompt_tokens", self.prompt_tokens, shape, minimum=1, maximum=MOST_TOKENS
            ),
            "output_tokens": integers(
                "output_tokens",
                self.output_tokens,
                shape,
                minimum=0,
                maximum=MOST_OUTPUT_TOKENS,
                hint="Cut the output, or make several requests of it",
            ),
            "weight": floats("weight", self.weight, shape, minimum=0),
            "slo_s": floats("slo_s", self.slo_s, shape, above=0, infinite=True),
        }
        for name, array in checked.items():
            object.__setattr__(self, name, array)
        if isinstance(self.origin_ns, bool) or not isinstance(self.origin_ns, int | np.integer):
            raise FieldError(
                f"{self.origin_ns!r}", where="origin_ns", expected="whole nanoseconds, as an int"
            )
        object.__setattr__(self, "origin_ns", int(self.origin_ns))
        self._check_digits()
        for mask in (self.is_inference, self.is_training):
            tasks = np.flatnonzero(mask)
            steps = np.diff(self.release_s[tasks])
            if np.any(steps < 0):
                task = int(tasks[int(np.argmax(steps < 0)) + 1])
                raise FieldError(
                    f"release {self.release_s[task]:g} s is before that of the task ahead of it",
                    where=f"release_s[{task}]",
                    expected="non-decreasing releases within each kind; sort the tasks first",
                )

    def _check_digits(self) -> None:
        latest = self.release_s.max(initial=0.0)
        if np.spacing(latest) > FINEST_S:
            task = int(np.argmax(np.spacing(self.release_s) > FINEST_S))
            last = float(self.release_s[task])
            raise FieldError(
                f"release {last!r} s is so late that floats there are "
                f"{np.spacing(last):.2g} s apart",
                where=f"release_s[{task}]",
                expected=f"releases whose neighbouring floats are at most {FINEST_S:g} s apart, "
                "which those below 8388608 s (97 days) are",
                hint="Count from the first release: lemix_opt.clock.since_first(stamps) subtracts "
                "it from exact stamps and returns release_s and origin_ns",
            )

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return int(self.kind.shape[0])

    @cached_property
    def is_training(self) -> BoolArray:
        """Mask of training tasks, shape (T,), read-only."""
        return self._of_kind(TRAINING)

    @cached_property
    def is_inference(self) -> BoolArray:
        """Mask of inference tasks, shape (T,), read-only."""
        return self._of_kind(INFERENCE)

    def _of_kind(self, code: int) -> BoolArray:
        mask = np.equal(self.kind, code)
        mask.flags.writeable = False
        return mask

    def take(self, tasks: IntArray, *, shift_s: float = 0.0) -> Workload:
        """Return the tasks with the given ids, in that order, released `shift_s` earlier."""
        columns = {f.name: getattr(self, f.name)[tasks] for f in fields(self) if f.name in COLUMNS}
        columns["release_s"] = columns["release_s"] - shift_s
        return Workload(**columns, origin_ns=self.origin_ns + round(shift_s * 1e9))

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]
