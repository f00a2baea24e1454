"""The value of a schedule: objective terms and the metrics it is compared by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.freshness import freshness, weight_sync_s
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.percentile import percentile
from lemix_opt.result import Value
from lemix_opt.schedule import DEFERRED, DONE, DROPPED, UNFINISHED, Schedule
from lemix_opt.token_metrics import alone_s, token_metrics


def response_s(instance: Instance, schedule: Schedule) -> FloatArray:
    """Seconds from a task's own release to its last end, shape (T,); infinity if not done."""
    return np.asarray(schedule.end_s() - instance.workload.release_s)


class _Spans(NamedTuple):
    """Where and when GPUs were busy, one row per operation or stage of an iteration."""

    node: IntArray
    stage: IntArray
    start_s: FloatArray
    end_s: FloatArray


def _busy(schedule: Schedule) -> _Spans:
    rows = schedule.operations
    if schedule.generated is None:
        return _Spans(rows.node, rows.stage, rows.start_s, rows.end_s)
    ran = schedule.generated.iterations
    count, stages = ran.start_s.shape
    return _Spans(
        np.concatenate([rows.node, np.repeat(ran.node, stages)]),
        np.concatenate([rows.stage, np.tile(np.arange(stages), count)]),
        np.concatenate([rows.start_s, ran.start_s.reshape(-1)]),
        np.concatenate([rows.end_s, ran.end_s.reshape(-1)]),
    )


def _extremes(place: IntArray, count: int, rows: _Spans) -> tuple[FloatArray, FloatArray]:
    """First start and last end in every place, shape (count,); infinities for unused ones."""
    first, last = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first, place, rows.start_s)
    np.maximum.at(last, place, rows.end_s)
    return first, last


def _lengths(first: FloatArray, last: FloatArray) -> FloatArray:
    """Seconds from first start to last end; 0 where nothing ran."""
    used = np.isfinite(first)
    return np.where(used, np.where(used, last, 0.0) - np.where(used, first, 0.0), 0.0)


def objective_value(instance: Instance, schedule: Schedule, objective: Objective) -> Value:
    """Return the objective in seconds; infinite when a task is not done.

    Parameters
    ----------
    instance : Instance
        Releases, weights and SLOs.
    schedule : Schedule
        What is valued, by its own times.
    objective : Objective
        Terms and weights.

    Returns
    -------
    float or tuple of float
        A tuple, one value per level, for lexicographic objectives.
    """
    rows = _busy(schedule)
    work = instance.workload
    if schedule.complete:
        response = response_s(instance, schedule)
        weighted = work.weight * response
        spans = _lengths(*_extremes(rows.node, instance.cluster.nodes, rows))
        late = work.is_inference & (response > work.slo_s + 1e-9)
        busy = float(np.sum(rows.end_s - rows.start_s))
        terms = {
            "makespan": float(np.max(rows.end_s)) if rows.node.size else 0.0,
            "inference_response": float(weighted[work.is_inference].sum()),
            "training_response": float(weighted[work.is_training].sum()),
            "late": float(work.weight[late].sum()),
            "idle": float(instance.cluster.stages * spans.sum() - busy),
            "node_time": float(spans.sum()),
        }
        levels = tuple(
            sum((objective.weights[name] * terms[name] for name in level), 0.0)
            for level in objective.levels
        )
    else:
        levels = (float("inf"),) * len(objective.levels)
    return levels if objective.lexicographic else levels[0]


@dataclass(frozen=True)
class Score:
    """Metrics of one schedule; times in seconds, shares between 0 and 1.

    Percentiles are over all inference requests, an unfinished one counting as infinite; shares
    and attainments divide by all arrivals. `freshness_mean_updates` is the mean number of updates
    in the replica that served a request. Time to first token (TTFT) counts from the release; time
    between tokens (TBT) is a mean per request, of which mean and percentile are given.
    """

    tasks: int
    inference_done: int
    training_done: int
    deferred: int
    dropped: int
    unfinished: int
    makespan_s: float
    response_mean_completed_s: float
    response_p50_s: float
    response_p95_s: float
    response_p99_s: float
    slo_unit_s: float
    slo_attainment_1x: float
    slo_attainment_5x: float
    slo_attainment_10x: float
    slo_attainable_5x: float
    throughput_per_s: float
    throughput_per_node_s: float
    bubble_rate: float
    bubble_rate_reference: float
    nodes_used: int
    nodes_effective: float
    freshness_mean_updates: float
    weight_sync_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    tbt_mean_s: float
    tbt_p99_s: float
    generated_tokens: int
    preemptions: int
    truncated: int
    out_of_memory_events: int

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics by name."""
        return asdict(self)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def attainment(responses: FloatArray, limit_s: float) -> float:
    """Share of responses within a limit in seconds; NaN for none."""
    return float(np.mean(responses <= limit_s + 1e-9)) if responses.size else float("nan")


def evaluate(instance: Instance, schedule: Schedule) -> Score:
    """Compute every metric that applies.

    Parameters
    ----------
    instance : Instance
        Releases, SLO unit and predicted costs.
    schedule : Schedule
        What is scored, by its own times.

    Returns
    -------
    Score
        NaN where a metric has nothing to divide by.
    """
    work, rows = instance.workload, _busy(schedule)
    inference = work.is_inference
    response = response_s(instance, schedule)[inference]
    completed = response[np.isfinite(response)]
    unit = float("nan") if instance.slo_unit_s is None else instance.slo_unit_s
    stages, nodes = instance.cluster.stages, instance.cluster.nodes
    first, last = _extremes(rows.node * stages + rows.stage, nodes * stages, rows)
    of_nodes = first.reshape(nodes, stages).min(axis=1), last.reshape(nodes, stages).max(axis=1)
    spans = _lengths(*of_nodes)
    busy = float(np.sum(rows.end_s - rows.start_s))
    ran = np.isfinite(first)
    own_span = float(np.sum(last[ran] - first[ran]))
    alone = alone_s(instance)[inference]
    done = schedule.end_state == DONE
    placed = np.bincount(schedule.node[schedule.node >= 0], minlength=nodes).astype(float)
    makespan = float(np.max(rows.end_s)) if rows.node.size else 0.0
    wall = makespan - float(np.min(rows.start_s)) if rows.node.size else 0.0

    return Score(
        tasks=instance.tasks,
        inference_done=int(np.sum(done & inference)),
        training_done=int(np.sum(done & ~inference)),
        deferred=int(np.sum(schedule.end_state == DEFERRED)),
        dropped=int(np.sum(schedule.end_state == DROPPED)),
        unfinished=int(np.sum(schedule.end_state == UNFINISHED)),
        makespan_s=makespan,
        response_mean_completed_s=float(completed.mean()) if completed.size else float("nan"),
        response_p50_s=percentile(response, 50),
        response_p95_s=percentile(response, 95),
        response_p99_s=percentile(response, 99),
        slo_unit_s=unit,
        slo_attainment_1x=attainment(response, 1 * unit),
        slo_attainment_5x=attainment(response, 5 * unit),
        slo_attainment_10x=attainment(response, 10 * unit),
        slo_attainable_5x=attainment(alone, 5 * unit),
        throughput_per_s=_ratio(float(done.sum()), wall),
        throughput_per_node_s=_ratio(float(done.sum()), float(spans.sum())),
        bubble_rate=1 - _ratio(busy, stages * float(spans.sum())),
        bubble_rate_reference=1 - _ratio(busy, own_span),
        nodes_used=int(np.sum(placed > 0)),
        nodes_effective=_ratio(float(placed.sum()) ** 2, float(np.sum(placed**2))),
        freshness_mean_updates=freshness(instance, schedule).mean_updates(),
        weight_sync_s=weight_sync_s(schedule),
        **token_metrics(instance, schedule),
        out_of_memory_events=len(schedule.out_of_memory),
    )
