"""Costs of tasks learned from traces: times of operations, fitted to what was executed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray, whole
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD
from lemix_opt.trace import Trace
from lemix_opt.workload import Workload
from predictors.registry import PREDICTORS
from predictors.timed_operations import OperationTimes, Scatter, Timed, drawn_times, fit_times

_LEAST_ROWS = 3
"""Tasks of one kind below which its operations are not fitted."""
_REFITS = 20
"""Fits to drawn runs behind `TraceCostModel.draws`, each of which predicts several draws."""


@dataclass(frozen=True)
class TraceCostModel:
    """Predicts the costs of tasks from the costs of other tasks.

    Operations are forwards of requests, forwards and backwards of training, by node class and
    stage. Their times follow batch rows and prompt tokens, in one shape for all operations or one
    for each, whichever predicts held-out lengths of the trace better; see
    `predictors.timed_operations.OperationTimes`. What tasks hold, by kind, and hops have a model of
    their own; updates, all-reduces and resident bytes do not depend on the task and are those of
    the trace. A recorded backward holds its update, and is predicted with it.

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
        """Predict the costs of an instance's tasks: times that are right in the mean.

        Raises
        ------
        FieldError
            If the instance has other node classes or stages, or a kind of task that the trace
            has hardly any of.
        """
        self._check(instance)
        asked = _operations(instance.workload, self.trace.actual, _by_release(instance))
        times, _ = self._times
        return self._as_costs(instance, asked, times.predict(asked.shapes, asked.number))

    def draws(self, instance: Instance, count: int, seed: int = 0) -> Iterator[Costs]:
        """Draw costs as they may come out: what the fit does not know, and how runs scatter.

        Every draw is of a model fitted to the trace with times drawn anew, and lies around it as
        the trace's held-out times lie around theirs. That another run may be faster or slower
        throughout is in it only as far as the trace itself drifts. Bytes are as predicted.

        Parameters
        ----------
        instance : Instance
            Whose tasks.
        count : int
            How many draws.
        seed : int, default 0
            Seed of the draws.

        Raises
        ------
        FieldError
            As in `costs`, or for a count below 1.
        """
        self._check(instance)
        whole("count", count, minimum=1)
        rng = np.random.default_rng(seed)
        asked = _operations(instance.workload, self.trace.actual, _by_release(instance))
        expected = self.costs(instance)
        _, scatter = self._times
        per_fit = -(-count // _REFITS)
        for drawn in range(count):
            if drawn % per_fit == 0:
                again = drawn_times(self.model, self._timed, self._times, rng)
                middle = again.predict(asked.shapes, asked.number)
            seconds = middle * scatter.draw(asked.number, rng)
            yield self._as_costs(instance, asked, seconds, expected)

    @cached_property
    def _timed(self) -> Timed:
        trace, actual = self.trace, self.trace.actual
        seen = _operations(trace.instance.workload, actual, _by_start(trace))
        seconds = np.stack([actual.forward_s, actual.backward_s])[seen.at]
        good = seconds > 0
        return Timed(seen.shapes[good], seconds[good], seen.number[good])

    @cached_property
    def _times(self) -> tuple[OperationTimes, Scatter]:
        return fit_times(self.model, self._timed)

    def _check(self, instance: Instance) -> None:
        seen, actual, work = self.trace.instance, self.trace.actual, instance.workload
        if (actual.classes, actual.stages) != (instance.costs.classes, instance.costs.stages):
            raise FieldError(
                f"{actual.classes} node classes, {actual.stages} stages",
                where="trace",
                expected=f"{instance.costs.classes} and {instance.costs.stages} as in the instance",
            )
        for kind, of in (("training", "is_training"), ("inference", "is_inference")):
            known, asked = getattr(seen.workload, of), getattr(work, of)
            if asked.any() and int(known.sum()) < _LEAST_ROWS:
                raise FieldError(
                    f"{int(known.sum())} {kind} tasks",
                    where="trace",
                    expected=f"at least {_LEAST_ROWS} to fit their times to",
                )

    def _as_costs(
        self,
        instance: Instance,
        asked: _Operations,
        seconds: FloatArray,
        like: Costs | None = None,
    ) -> Costs:
        """Put seconds by operation into costs; what is no time of a GPU is that of `like`."""
        work, actual = instance.workload, self.trace.actual
        found = np.zeros((2, actual.classes, work.tasks, actual.stages))
        # A backward that took no time anywhere was not fitted.
        found[asked.at] = np.nan_to_num(seconds)
        if like is not None:
            held, hops = like.held_bytes, like.hop_s
        else:
            held = self._predict(actual.held_bytes, work, split=True)
            hops = self._predict(actual.hop_s, work, split=False)
        return Costs(
            found[0],
            found[1],
            held,
            actual.resident_bytes,
            actual.update_s,
            hops,
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


@dataclass(frozen=True, eq=False)
class _Operations:
    """Operations of a workload in the order of a run.

    Parameters
    ----------
    at : tuple of ndarray of int, each shape (R,)
        Phase, class, task and stage of every row.
    shapes : ndarray, shape (R, 2)
        Batch rows and prompt tokens.
    number : ndarray of int, shape (R,)
        Which operation it is: forward of requests, forward and backward of training, by class and
        stage.
    """

    at: tuple[IntArray, ...]
    shapes: FloatArray
    number: IntArray


def _operations(work: Workload, costs: Costs, order: FloatArray) -> _Operations:
    """Return the operations of a workload, sorted by `order`, shape (2, T, S)."""
    size = (2, costs.classes, work.tasks, costs.stages)
    phase, k, task, s = (axis.ravel() for axis in np.indices(size))
    runs = np.flatnonzero((phase != BACKWARD) | work.is_training[task])
    runs = runs[np.argsort(order[phase, task, s][runs], kind="stable")]
    phase, k, task, s = phase[runs], k[runs], task[runs], s[runs]
    number = ((phase + work.is_training[task]) * costs.classes + k) * costs.stages + s
    return _Operations((phase, k, task, s), _shapes(work)[task], number)


def _by_release(instance: Instance) -> FloatArray:
    """Order of an instance that has not run: by release."""
    release_s = instance.workload.release_s
    return np.broadcast_to(release_s[None, :, None], (2, release_s.size, instance.costs.stages))


def _by_start(trace: Trace) -> FloatArray:
    """Order of a trace: by start, and by release what has none."""
    order = _by_release(trace.instance).copy()
    if trace.schedule is not None:
        o = trace.schedule.operations
        runs = o.phase <= BACKWARD
        order[o.phase[runs], o.task[runs], o.stage[runs]] = o.start_s[runs]
    return order


def _shapes(work: Workload) -> FloatArray:
    """Return batch rows and prompt tokens of every task, shape (T, 2)."""
    return np.column_stack([work.batch, work.prompt_tokens]).astype(np.float64)
