"""Iterations of token generation: a time model, packaged calibrations, and costs of requests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import resources

import msgspec
import numpy as np
from sklearn.base import clone

from lemix_opt.checks import FloatArray, whole
from lemix_opt.costs import Costs
from lemix_opt.errors import unknown
from lemix_opt.generation import IterationCosts
from lemix_opt.workload import Workload
from predictors.errors_by_split import SEEDS, mape_pct
from predictors.estimate import BACKWARD_RATIO, stage_costs
from predictors.intervals import points
from predictors.memory import held_bytes, resident_bytes
from predictors.model_shapes import model_shape
from predictors.regressor import CalibratedRegressor, relative_nnls
from predictors.stages import layers_by_stage

PREFILL, DECODE = 0, 1


class IterationTimeModel(CalibratedRegressor):
    """Seconds of a prefill or of one decode step, linear and with one constant for both.

    Columns are rows of the batch, tokens per row (of the prompt, or of the context of a decode)
    and the phase, 0 for a prefill and 1 for a decode. Coefficients are at least 0 and of least
    relative error. See `CalibratedRegressor`.

    Attributes
    ----------
    coef_ : ndarray, shape (5,)
        Seconds, per prompt token, per prompt token and token of its context, per decoding
        request, per token of its context.
    """

    def _features(self, X: FloatArray) -> FloatArray:
        rows, length, decodes = X.T
        prefills = 1 - decodes
        tokens = rows * length
        columns = (prefills * tokens, prefills * tokens * length, decodes * rows, decodes * tokens)
        return np.column_stack([np.ones(len(X)), *columns])

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        self.coef_ = relative_nnls(self._features(X), y)

    def _predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(self._features(X) @ self.coef_)


class IterationCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What iterations of one model on given GPUs take, fitted to measurements.

    A decode and a prefill were measured apart; that they add up in one iteration, with the
    constant once, is an assumption.

    Parameters
    ----------
    name : str
        Name of the calibration.
    model, gpu : str
        What was measured, on what.
    gpus : int
        GPUs one measurement used (tensor parallelism).
    base_s, per_prefill_token_s, per_prefill_pair_s, per_decode_s, per_context_token_s : float
        Coefficients of the whole model, see `lemix_opt.IterationCosts`.
    mape_pct : dict of str to float
        Error in percent on held-out points, by phase.
    rows, max_length, max_batch : int
        Measured runs behind it, and how far they reach.
    source, sha256 : str
        Dataset with its licence, and the hash of the file.
    """

    name: str
    model: str
    gpu: str
    gpus: int
    base_s: float
    per_prefill_token_s: float
    per_prefill_pair_s: float
    per_decode_s: float
    per_context_token_s: float
    mape_pct: dict[str, float]
    rows: int
    max_length: int
    max_batch: int
    source: str
    sha256: str

    def costs(self, stages: int) -> IterationCosts:
        """Return the costs on one node class, split over the stages in proportion to layers."""
        shape = model_shape(self.model)
        share = layers_by_stage(shape, whole("stages", stages, minimum=1)) / shape.layers

        def each(value: float) -> FloatArray:
            return np.asarray(value * share[None])

        return IterationCosts(
            each(self.base_s),
            each(self.per_prefill_token_s),
            each(self.per_prefill_pair_s),
            each(self.per_decode_s),
            each(self.per_context_token_s),
            each(shape.kv_bytes_per_token),
        )


def phase_errors(model: IterationTimeModel, X: FloatArray, y: FloatArray) -> dict[str, float]:
    """Hold a random fifth of the points out; return the mean errors in percent by phase."""
    point = points(X)
    distinct = int(np.max(point)) + 1
    found: dict[str, list[float]] = {"prefill": [], "decode": []}
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(distinct)
        fit_on = np.isin(point, order[: int(0.8 * distinct)])
        fitted = clone(model).set_params(calibrate=False).fit(X[fit_on], y[fit_on])
        for phase, name in enumerate(found):
            held = ~fit_on & (X[:, 2] == phase)
            if held.any():
                found[name].append(mape_pct(y[held], fitted.predict(X[held])))
    return {f"{name}, random fifth": float(np.mean(e)) for name, e in found.items() if e}


def fit_iterations(
    name: str,
    X: FloatArray,
    seconds: FloatArray,
    *,
    model: str,
    gpu: str,
    gpus: int,
    source: str,
    sha256: str,
) -> IterationCalibration:
    """Fit a calibration and measure its errors on held-out points.

    Parameters
    ----------
    name, model, gpu, gpus, source, sha256
        As in `IterationCalibration`.
    X : ndarray, shape (R, 3)
        Rows, tokens and phase of every run, see `IterationTimeModel`.
    seconds : ndarray, shape (R,)
        Measured times.
    """
    fitted = IterationTimeModel(calibrate=False).fit(X, seconds)
    errors = phase_errors(IterationTimeModel(), X, seconds)
    base, per_token, per_pair, per_decode, per_context = (float(f"{c:.6g}") for c in fitted.coef_)
    return IterationCalibration(
        name,
        model,
        gpu,
        gpus,
        base,
        per_token,
        per_pair,
        per_decode,
        per_context,
        {split: round(error, 2) for split, error in errors.items()},
        len(seconds),
        int(np.max(X[:, 1])),
        int(np.max(X[:, 0])),
        source,
        sha256,
    )


@cache
def iteration_calibrations() -> dict[str, IterationCalibration]:
    """All packaged calibrations of iterations by name."""
    content = (resources.files("predictors") / "iteration_calibrations.json").read_bytes()
    return {c.name: c for c in msgspec.json.decode(content, type=list[IterationCalibration])}


def load_iterations(name: str) -> IterationCalibration:
    """Return the calibration called `name`; an unknown name raises `UnknownNameError`."""
    known = iteration_calibrations()
    if name not in known:
        raise unknown("calibration of iterations", name, known)
    return known[name]


def serving_costs(
    workload: Workload,
    calibration: IterationCalibration,
    *,
    stages: int,
    optimizer: str = "none",
    backward_ratio: float = BACKWARD_RATIO,
) -> Costs:
    """Predict the costs of a workload whose requests generate tokens, on one node class.

    Seconds and bytes are as predicted, not rounded to ticks: the exact model has no generation.

    Parameters
    ----------
    workload : Workload
        T tasks.
    calibration : IterationCalibration
        What iterations take; forwards of training tasks are prefills of their batch.
    stages : int
        Pipeline stages S; layers are split as evenly as they go.
    optimizer : {"none", "host", "gpu"}, default "none"
        Where the optimizer's state lives, see `predictors.memory.STATE_BYTES`.
    backward_ratio : float, default 1.99
        Backward / forward (Sailor, LLAMA-3-8 on A100-40, 3 points).
    """
    iteration, shape = calibration.costs(stages), model_shape(calibration.model)
    training = workload.is_training
    tokens = workload.batch * workload.prompt_tokens
    forward = iteration.seconds(0, tokens, tokens * workload.prompt_tokens).sum(axis=1)
    activations = held_bytes(shape, stages, tokens, training)
    cached = workload.prompt_tokens + np.maximum(workload.output_tokens, 1) - 1
    costs = stage_costs(
        forward,
        training,
        layers=layers_by_stage(shape, stages),
        backward_ratio=backward_ratio,
        held=np.where(
            training[:, None], activations, cached[:, None] * iteration.kv_bytes_per_token
        ),
        resident=resident_bytes(shape, stages, optimizer),
    )
    return replace(costs, iteration=iteration)
