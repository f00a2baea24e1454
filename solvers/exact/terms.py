"""The objective's terms as integer expressions over a model, and back to seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from lemix_opt.grid import ticks_down, ticks_up
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.schedule import FORWARD
from solvers.exact.constraints.bounds import head_tail_rows, load_rows
from solvers.exact.constraints.order import rows_to_end
from solvers.exact.parts import Parts
from solvers.exact.variables import Model

LARGEST_DENOMINATOR = 10**6
"""Of the ratio of a cost to the smallest one, for costs that count as multiples of one unit."""
FINEST = 1e9
"""Factor of the largest cost where costs have no common unit."""
LARGEST_SUM = 2.0**60


@dataclass(frozen=True)
class Level:
    """One level of the objective: value in seconds = expression / scale + constant.

    `least` bounds it before any search, by heads and chains alone; CP-SAT may end without a bound.

    Without a common unit of all costs the factors are rounded down; since every part of the
    expression is non-negative, its minimum then still bounds the level from below.
    """

    expression: Any
    scale: float
    constant: float
    whole: bool
    least: float

    def seconds(self, value: float) -> float:
        """Return the seconds that a value of the expression stands for."""
        return value / self.scale + self.constant


def levels(
    instance: Instance,
    model: Model,
    objective: Objective,
    parts: Parts,
    *,
    bound: bool,
) -> list[Level]:
    """Return the objective's levels over a model's variables, in order of importance."""
    return [_level(instance, model, objective, parts, names, bound) for names in objective.levels]


def _level(
    instance: Instance,
    model: Model,
    objective: Objective,
    parts: Parts,
    names: tuple[str, ...],
    bound: bool,
) -> Level:
    terms: list[tuple[float, Any]] = []
    constant, least = 0.0, 0.0
    work, tick = instance.workload, instance.tick_s
    spans = _spans(instance, model) if {"idle", "node_time"} & set(names) else []
    if parts.loads:
        load_rows(model, dict(enumerate(spans)))
    for name in names:
        weight = objective.weights[name]
        if name == "makespan":
            terms.append((weight * tick, _makespan(instance, model, parts)))
            ends = [_least_end(model, i) for i in range(instance.tasks)]
            least += weight * tick * max(ends, default=0)
        elif name in ("inference_response", "training_response"):
            mask = work.is_inference if name == "inference_response" else work.is_training
            for i in np.flatnonzero(mask).tolist():
                terms.append((weight * float(work.weight[i]) * tick, model.done[i]))
                constant -= weight * float(work.weight[i]) * float(work.release_s[i])
                response = _least_end(model, i) * tick - float(work.release_s[i])
                least += weight * float(work.weight[i]) * max(response, 0.0)
        elif name == "late":
            for i in np.flatnonzero(work.is_inference & np.isfinite(work.slo_s)).tolist():
                ticks = ticks_up if bound else ticks_down
                due = int(ticks(work.release_s[i] + work.slo_s[i], tick))
                late = model.cp.new_bool_var(f"late{i}")
                model.cp.add(model.done[i] <= due).only_enforce_if(~late)
                terms.append((weight * float(work.weight[i]), late))
        elif name == "node_time":
            terms.extend((weight * tick, span) for span in spans)
        elif name == "idle":
            terms.append((weight * tick, _idle(instance, model, spans, bound)))
    factors, scale, exact = whole_factors([c for c, _ in terms], _most(instance, model, len(terms)))
    whole = [factor * v for factor, (_, v) in zip(factors, terms, strict=True)]
    return Level(sum(whole) if whole else model.cp.new_constant(0), scale, constant, exact, least)


def _least_end(model: Model, i: int) -> int:
    return model.head[i, FORWARD, 0] + int(model.chain[i].after[0]) if model.head else 0


def _most(instance: Instance, model: Model, terms: int) -> float:
    """Return the largest factor with which sums over all terms stay within 64 bits."""
    gpus = instance.cluster.stages * instance.cluster.nodes
    return LARGEST_SUM / (max(terms, 1) * gpus * max(model.horizon, 1))


def whole_factors(costs: list[float], most: float) -> tuple[list[int], float, bool]:
    """Return whole factors, by how much they exceed the costs, and whether nothing was lost.

    Costs that are no multiples of a common unit are rounded down, the largest to `most` at most.
    """
    positive = [c for c in costs if c > 0]
    if not positive:
        return [0] * len(costs), 1.0, True
    least, largest = min(positive), max(positive)
    if largest / least <= most:
        ratios = [Fraction(c / least).limit_denominator(LARGEST_DENOMINATOR) for c in costs]
        near = all(abs(r * least - c) <= 1e-12 * c for r, c in zip(ratios, costs, strict=True))
        units = math.lcm(*(r.denominator for r in ratios))
        if near and largest / least * units <= most:
            factors = [int(r * units) for r in ratios]
            shared = math.gcd(*factors)
            return [f // shared for f in factors], units / shared / least, True
    scale = min(FINEST, most) / largest
    return [math.floor(c * scale) for c in costs], scale, False


def _makespan(instance: Instance, model: Model, parts: Parts) -> Any:
    if model.makespan is not None:
        return model.makespan
    end = model.makespan = model.cp.new_int_var(0, model.horizon, "makespan")
    for done in model.done:
        model.cp.add(end >= done)
    for _, last in model.rest.span.values():
        model.cp.add(end >= last)
    if parts.loads:
        load_rows(model, dict.fromkeys(range(instance.cluster.nodes), end))
    if parts.head_tail:
        head_tail_rows(model, end)
    rows_to_end(instance, model, end)
    return end


def _spans(instance: Instance, model: Model) -> list[Any]:
    cp, spans = model.cp, []
    for n in range(instance.cluster.nodes):
        first = cp.new_int_var(0, model.horizon, f"first{n}")
        last = cp.new_int_var(0, model.horizon, f"last{n}")
        span = cp.new_int_var(0, model.horizon, f"span{n}")
        cp.add(span >= last - first)
        if n in model.rest.span:
            cp.add(first <= model.rest.span[n][0])
            cp.add(last >= model.rest.span[n][1])
        for i in range(instance.tasks):
            here = model.on[i][n]
            cp.add(first <= model.start[i, FORWARD, 0]).only_enforce_if(here)
            cp.add(last >= model.done[i]).only_enforce_if(here)
        spans.append(span)
    return spans


def _idle(instance: Instance, model: Model, spans: list[Any], bound: bool) -> Any:
    kind, training = instance.cluster.node_class, instance.workload.is_training
    costs = instance.costs
    # A bound never rounds busy down, so that idle is never overrated.
    ticks = ticks_up if bound else ticks_down
    busy = ticks(costs.forward_s, instance.tick_s)[kind].sum(2)
    extra = ticks(costs.backward_s, instance.tick_s)[kind].sum(2)
    extra = extra + ticks(costs.closing_s, instance.tick_s)[kind].sum(1)[:, None]
    busy = busy + extra * training[None, :]
    stages = instance.cluster.stages
    idle = model.cp.new_int_var(0, stages * instance.cluster.nodes * model.horizon, "idle")
    used = sum(
        int(busy[n, i]) * model.on[i][n]
        for n in range(instance.cluster.nodes)
        for i in range(instance.tasks)
    )
    model.cp.add(idle >= stages * sum(spans) - used)
    return idle
