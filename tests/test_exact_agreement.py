"""Exact solvers against an exhaustive search, and that search against two slower ones."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import factorial, prod

import brute_force
import brute_starts
import numpy as np
import pytest
from nightly.drawn import Digits, Drawn, instance_of, objective_of, problem, tables, values_s
from nightly.exact_agreement import report
from nightly.exhaustive import least_cost

from lemix_opt import Instance, Objective

SECONDS = Digits(Fraction(0), Fraction(1), 1, Fraction(1), 0, 1.0, Fraction(1), Fraction(1))
REGULAR = {"makespan", "inference_response", "training_response", "late"}


def small(seed: int, operations: int) -> Drawn:
    """Draw a problem in whole seconds with few operations."""
    drawn = replace(problem(seed), digits=SECONDS)
    stages = drawn.capacity.shape[1]
    while drawn.tasks > 1 and int((1 + drawn.kind).sum()) * stages > operations:
        drawn = drawn.without_last()
    return drawn


def exact(drawn: Drawn) -> tuple[float, ...]:
    cost, _ = least_cost(tables(drawn))
    assert cost is not None
    return tuple(map(float, values_s(drawn, cost)))


def by_level(
    instance: Instance, objective: Objective, ends: list[float], spans: float, busy: float
) -> tuple[float, ...]:
    work = instance.workload
    response = np.asarray(ends) - work.release_s
    late = (work.kind == 0) & (response > work.slo_s)
    terms = {
        "makespan": max(ends),
        "inference_response": float((work.weight * response)[work.kind == 0].sum()),
        "training_response": float((work.weight * response)[work.kind == 1].sum()),
        "late": float(work.weight[late].sum()),
        "idle": instance.cluster.stages * spans - busy,
        "node_time": spans,
    }
    return tuple(
        sum(objective.weights[name] * terms[name] for name in level) for level in objective.levels
    )


def test_the_search_agrees_with_every_order_of_starts() -> None:
    compared = 0
    for seed in range(400):
        drawn = small(seed, operations=7)
        counts = ((1 + drawn.kind) * drawn.capacity.shape[1]).tolist()
        orders = factorial(sum(counts)) / prod(map(factorial, counts))
        instant = (drawn.backward == 0).any()
        if not set(drawn.prices) <= REGULAR or instant or orders > 400:
            continue
        instance, objective = instance_of(drawn), objective_of(drawn)
        wanted = min(
            by_level(instance, objective, ends, 0.0, 0.0)
            for ends in brute_force.schedules(instance)
        )
        assert exact(drawn) == pytest.approx(wanted, abs=1e-9), seed
        compared += 1
    assert compared > 80


def test_the_search_agrees_with_every_integer_start() -> None:
    compared = 0
    for seed in range(1500):
        drawn = small(seed, operations=4)
        plain = len(np.unique(drawn.node_class)) == 1 and not drawn.node_class.any()
        instance, objective = instance_of(drawn), objective_of(drawn)
        instant = (drawn.backward == 0).any()
        starts = brute_starts.horizon(instance)
        if set(drawn.prices) <= REGULAR or not plain or instant or starts > 11:
            continue

        def value(
            placed: brute_starts.Placed, instance: Instance = instance, goal: Objective = objective
        ) -> tuple[float, ...]:
            tasks = range(instance.tasks)
            ends = [0.0 for _ in tasks]
            for operation, at in placed[1].items():
                over = at + brute_starts._length(instance, operation)
                over += brute_starts._tail(instance, operation)
                ends[operation[0]] = max(ends[operation[0]], over)
            spans = sum(
                last - first for first, last in brute_starts.spans(instance, placed).values()
            )
            return by_level(instance, goal, ends, spans, brute_starts.busy(instance, placed))

        wanted = min(map(value, brute_starts.solutions(instance)))
        assert exact(drawn) == pytest.approx(wanted, abs=1e-9), seed
        compared += 1
    assert compared > 30


def test_exact_solvers_agree_with_the_search() -> None:
    assert report(range(60)) == []


@pytest.mark.nightly
def test_exact_solvers_agree_with_the_search_ten_thousand_times() -> None:
    assert report(range(10_000), jobs=2) == []
