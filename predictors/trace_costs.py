"""Costs of tasks learned from traces: one time model per operation, fitted to what was executed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance
from lemix_opt.trace import Trace
from lemix_opt.workload import Workload
from predictors.registry import PREDICTORS

_LEAST_ROWS = 3
"""Tasks of one kind below which its operations are not fitted."""


@dataclass(frozen=True)
class TraceCostModel:
    """Predicts the costs of tasks from the costs of other tasks.

    Every operation (forward of requests, forward and backward of training, by node class and
    stage) and what tasks hold have a model of their own over batch rows and prompt tokens. Hops
    are fitted in the same way; updates, all-reduces and resident bytes do not depend on the task
    and are those of the trace.

    Parameters
    ----------
    trace : Trace
        What is learned from: its actual costs.
    model : str, default "analytic"
        Time model out of `predictors.registry.PREDICTORS`.
    """

    trace: Trace
    model: str = "analytic"

    def __str__(self) -> str:
        return f"{self.model!r} fitted to {self.trace.instance.tasks} tasks ({self.trace.truth})"

    def costs(self, instance: Instance) -> Costs:
        """Predict the costs of an instance's tasks.

        Raises
        ------
        FieldError
            If the instance has other node classes or stages, or a kind of task that the trace
            has hardly any of.
        """
        seen, actual = self.trace.instance, self.trace.actual
        if (actual.classes, actual.stages) != (instance.costs.classes, instance.costs.stages):
            raise FieldError(
                f"{actual.classes} node classes, {actual.stages} stages",
                where="trace",
                expected=f"{instance.costs.classes} and {instance.costs.stages} as in the instance",
            )
        work = instance.workload
        for kind, of in (("training", "is_training"), ("inference", "is_inference")):
            known, asked = getattr(seen.workload, of), getattr(work, of)
            if asked.any() and int(known.sum()) < _LEAST_ROWS:
                raise FieldError(
                    f"{int(known.sum())} {kind} tasks",
                    where="trace",
                    expected=f"at least {_LEAST_ROWS} to fit their times to",
                )

        def by_kind(column: FloatArray) -> FloatArray:
            return self._predict(column, work, split=True)

        return Costs(
            by_kind(actual.forward_s),
            by_kind(actual.backward_s) * work.is_training[None, :, None],
            by_kind(actual.held_bytes),
            actual.resident_bytes,
            actual.update_s,
            self._predict(actual.hop_s, work, split=False),
            actual.all_reduce_s,
            actual.iteration,
        )

    def _predict(self, column: FloatArray, work: Workload, *, split: bool) -> FloatArray:
        """Fit a column (K, T, S) by class and stage, and by kind where `split`; predict it."""
        seen = self.trace.instance.workload
        found = np.zeros((column.shape[0], work.release_s.size, column.shape[2]))
        masks: list[tuple[BoolArray, BoolArray]] = [
            (seen.is_training, work.is_training),
            (seen.is_inference, work.is_inference),
        ]
        everyone = (np.ones_like(seen.is_training), np.ones_like(work.is_training))
        for known, asked in masks if split else [everyone]:
            if not asked.any():
                continue
            for k, _, s in np.ndindex(column.shape[0], 1, column.shape[2]):
                predict = self._fitted(_shapes(seen)[known], column[k, known, s])
                found[k, asked, s] = predict(_shapes(work)[asked])
        return found

    def _fitted(self, shapes: FloatArray, values: FloatArray) -> Callable[[FloatArray], FloatArray]:
        if not values.any():
            return lambda asked: np.zeros(len(asked))
        model = PREDICTORS.create(self.model, calibrate=False)
        predict: Callable[[FloatArray], FloatArray] = model.fit(shapes, values).predict
        return predict


def _shapes(work: Workload) -> FloatArray:
    """Return batch rows and prompt tokens of every task, shape (T, 2)."""
    return np.column_stack([work.batch, work.prompt_tokens]).astype(np.float64)
