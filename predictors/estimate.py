"""Predicted costs of an instance from a time model and the shape of the served model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray, floats
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError, unknown
from lemix_opt.grid import ticks_up, to_seconds
from lemix_opt.workload import Workload
from predictors.memory import held_bytes, resident_bytes
from predictors.memory_spread import MemorySpread, load_memory_spread
from predictors.model_shapes import ModelShape
from predictors.stages import layers_by_stage

MIB = 2.0**20
BACKWARD_RATIO = 1.99
"""Backward/forward of transformer layers: Sailor, LLAMA-3-8 on A100-40, 3 points, 1.98–2.02."""
_NUMBER_BYTES = 2
"""Bytes of a number of the hidden state: 16-bit floats."""


class PredictsTime(Protocol):
    """What `estimate_costs` asks of a time model."""

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Predict seconds of a whole-model forward, X holding batch rows and length in tokens."""
        ...


@runtime_checkable
class PredictsQuantile(Protocol):
    """What `estimate_costs` asks of a time model for a quantile."""

    def predict_quantile(self, X: npt.ArrayLike, quantile: float = 0.9) -> FloatArray:
        """Predict seconds that a forward does not exceed with probability `quantile`."""
        ...


class PredictsHop(Protocol):
    """What `estimate_costs` asks of a hop model."""

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        """Predict seconds between two stages, X holding the bytes that are sent."""
        ...


def forward_quantile(
    model: PredictsTime, queries: FloatArray, quantile: float | None
) -> FloatArray:
    """Predict seconds of whole-model forwards, or a quantile of them, shape (T,).

    Parameters
    ----------
    model : PredictsTime
        Fitted time model.
    queries : ndarray, shape (T, 2)
        Batch rows and length in tokens.
    quantile : float, optional
        Probability that a forward takes no longer, from the model's held-out residuals; the
        prediction itself when omitted.

    Raises
    ------
    FieldError
        If the model has no quantiles, or too few residuals for this one.
    """
    if quantile is None:
        return np.asarray(model.predict(queries))
    level = float(floats("time_quantile", quantile, (), above=0, maximum=1))
    if not isinstance(model, PredictsQuantile):
        raise FieldError(
            f"{level:g} with a {type(model).__name__}",
            where="time_quantile",
            expected="a model with predict_quantile",
        )
    found = np.asarray(model.predict_quantile(queries, level))
    if not np.all(np.isfinite(found)):
        raise FieldError(
            f"{level:g}",
            where="time_quantile",
            expected="a quantile that the model has held-out residuals enough for",
            hint="Fit the model with calibrate=True, on more points",
        )
    return found


def stage_costs(
    forward_s: FloatArray,
    training: npt.NDArray[np.bool_],
    *,
    layers: IntArray,
    backward_ratio: float,
    held: FloatArray,
    resident: FloatArray,
    hop_s: FloatArray | float = 0.0,
) -> Costs:
    """Split whole-model forwards over the stages in proportion to their layers; one node class.

    Parameters
    ----------
    forward_s : ndarray, shape (T,)
        Seconds of the whole model's forward.
    training : ndarray of bool, shape (T,)
        Which tasks have a backward.
    layers : ndarray of int, shape (S,)
        Layers of every stage. What embedding and output head take is spread with them, since
        measurements of the whole model do not show it apart.
    backward_ratio : float
        Backward / forward of a stage.
    held : ndarray, shape (T, S)
        Bytes every task holds on every stage.
    resident : ndarray, shape (S,)
        Bytes always taken on every stage.
    hop_s : ndarray, shape (T, S-1), or float, default 0
        Seconds between neighbouring stages.
    """
    each = forward_s[None, :, None] * (layers / np.sum(layers))
    backward = backward_ratio * each * training[None, :, None]
    between = np.broadcast_to(hop_s, (forward_s.size, layers.size - 1))[None]
    return Costs(each, backward, held[None], resident[None], hop_s=between)


def stage_hops(
    workload: Workload,
    shape: ModelShape,
    stages: int,
    hop_model: Mapping[str, PredictsHop],
    link: str | Sequence[str],
) -> FloatArray:
    """Predict the seconds between neighbouring stages, shape (T, S-1).

    A hop carries the hidden state of all tokens, batch · length · hidden numbers of 2 bytes, and on
    the way back its gradient, which is as large.

    Parameters
    ----------
    workload : Workload
        T tasks.
    shape : ModelShape
        The model.
    stages : int
        Pipeline stages S.
    hop_model : mapping of str to fitted model
        One model per kind of link, for instance from `predictors.load_hops`.
    link : str or sequence of str, shape (S-1,)
        Kind of link between all stages, or between each two neighbours.

    Raises
    ------
    UnknownNameError
        For a link without a model.
    FieldError
        If there are not S-1 links.
    """
    links = [link] * (stages - 1) if isinstance(link, str) else list(link)
    if len(links) != stages - 1:
        raise FieldError(
            f"{len(links)} links", where="link", expected=f"{stages - 1} for {stages} stages"
        )
    for name in links:
        if name not in hop_model:
            raise unknown("link", name, hop_model)
    sent = _NUMBER_BYTES * shape.hidden * (workload.batch * workload.prompt_tokens)
    found = np.zeros((workload.tasks, stages - 1))
    for name in set(links) if workload.tasks else ():
        here = [at for at, other in enumerate(links) if other == name]
        found[:, here] = hop_model[name].predict(sent[:, None])[:, None]
    return found


def estimate_costs(
    workload: Workload,
    model: PredictsTime,
    shape: ModelShape,
    *,
    stages: int,
    optimizer: str = "gpu",
    backward_ratio: float = BACKWARD_RATIO,
    tick_s: float | None = 0.001,
    layers: Sequence[int] | None = None,
    hop_model: Mapping[str, PredictsHop] | None = None,
    link: str | Sequence[str] = "within",
    time_quantile: float | None = None,
    memory_quantile: float | None = None,
    memory_spread: MemorySpread | None = None,
) -> Costs:
    """Predict the costs of a workload on one node class, or a quantile of them.

    Policies and the exact model read predicted costs, so that they plan with the quantile given
    here.

    Seconds are rounded up to whole ticks and bytes up to whole MiB, so that the instance lies on
    the solvers' grid and proofs are exact.

    Parameters
    ----------
    workload : Workload
        T tasks.
    model : PredictsTime
        Fitted time model of the whole model's forward.
    shape : ModelShape
        The served model, for memory.
    stages : int
        Pipeline stages S.
    optimizer : {"none", "host", "gpu"}, default "gpu"
        Where the optimizer's state lives, see `predictors.memory.STATE_BYTES`.
    backward_ratio : float, default 1.99
        Backward / forward (Sailor, LLAMA-3-8 on A100-40, 3 points).
    tick_s : float, optional
        Grid in seconds; None leaves seconds and bytes as predicted.
    layers : sequence of int, shape (S,), optional
        Layers of every stage, which its seconds and bytes are in proportion to. As even as
        possible when omitted, the first stages taking what does not divide.
    hop_model : mapping of str to fitted model, optional
        Time of a transfer between stages by kind of link, for instance from
        `predictors.load_hops`. Hops take no time when omitted.
    link : str or sequence of str, shape (S-1,), default "within"
        Kind of link between all stages, or between each two neighbours.
    time_quantile : float, optional
        Probability that an operation takes no longer than its predicted seconds, in (0, 1]; the
        backward stays in its ratio to the forward. The prediction itself when omitted.
    memory_quantile : float, optional
        Probability that a task holds no more than its predicted bytes, in (0, 1]. Resident bytes
        are counted from shapes and have no quantile. The prediction itself when omitted.
    memory_spread : MemorySpread, optional
        Residuals that the memory quantile comes from; `load_memory_spread()` when omitted.

    Raises
    ------
    FieldError
        If the model predicts a time that is not positive, layers or links do not fit, or there
        are too few residuals for a quantile.
    UnknownNameError
        For a link that the hop model does not know.
    """
    own = layers_by_stage(shape, stages, layers)
    stages = own.size
    ratio = float(floats("backward_ratio", backward_ratio, (), minimum=0))
    training = workload.is_training
    queries = np.column_stack([workload.batch, workload.prompt_tokens]).astype(np.float64)
    forward = forward_quantile(model, queries, time_quantile) if workload.tasks else np.zeros(0)
    if forward.size and not np.min(forward) > 0:
        task = int(np.argmin(forward))
        raise FieldError(
            f"{forward[task]} s for batch {queries[task, 0]:g}, length {queries[task, 1]:g}",
            where=f"prediction for task {task}",
            expected="a positive time",
            hint="Fit the time model on more points",
        )
    tokens = workload.batch * workload.prompt_tokens
    held = held_bytes(shape, stages, tokens, training, layers)
    if memory_quantile is not None:
        level = float(floats("memory_quantile", memory_quantile, (), above=0, maximum=1))
        spread = load_memory_spread() if memory_spread is None else memory_spread
        held = held * np.exp(spread.log_quantile(level))
    costs = stage_costs(
        forward,
        training,
        layers=own,
        backward_ratio=ratio,
        held=held,
        resident=resident_bytes(shape, stages, optimizer, layers),
        hop_s=0.0 if hop_model is None else stage_hops(workload, shape, stages, hop_model, link),
    )
    if tick_s is None:
        return costs
    return Costs(
        to_seconds(ticks_up(costs.forward_s, tick_s), tick_s),
        to_seconds(ticks_up(costs.backward_s, tick_s), tick_s),
        np.ceil(costs.held_bytes / MIB) * MIB,
        np.ceil(costs.resident_bytes / MIB) * MIB,
        hop_s=to_seconds(ticks_up(costs.hop_s, tick_s), tick_s),
    )
