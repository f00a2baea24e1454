"""The one definition of load: by hand, and the same wherever one is shown or asked for."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.conditions import Condition
from experiments.lemix_grids import Grid, Variant
from experiments.lemix_study import run_study
from experiments.study import Study, build
from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.errors import FieldError
from lemix_opt.load import gpu_seconds, offered_load, request_span_s

# Requests at 1, 3 and 6 s; training at 0 and 99 s, which does not count for the span.
WORK = Workload([1, 0, 0, 0, 1], [0.0, 1.0, 3.0, 6.0, 99.0], 1, 8)
FORWARD_S = np.array([1.0, 2.0])[:, None, None] * np.ones((2, 5, 2))
# Seconds of a backward stand beside requests too, where they mean nothing.
COSTS = Costs(
    FORWARD_S,
    3 * FORWARD_S,
    0.0,
    0.0,
    update_s=[[0.5, 0.25], [1.0, 0.5]],
    all_reduce_s=[[0.25, 0.0], [0.0, 0.0]],
    hop_s=7.0,
)
# Two nodes of class 0, one of class 1.
INSTANCE = Instance(Cluster(3, 2, 1.0, [0, 0, 1]), WORK, COSTS)


def test_load_by_hand() -> None:
    # Class 0: 5 forwards of 1 s and 2 backwards of 3 s on 2 stages, 2 updates of 0.5 + 0.25 s and
    # an all-reduce of 0.25 s. Class 1: twice that, updates of 1 + 0.5 s.
    first = 5 * 1 * 2 + 2 * 3 * 2 + 2 * (0.75 + 0.25)
    second = 5 * 2 * 2 + 2 * 6 * 2 + 2 * 1.5
    assert gpu_seconds(INSTANCE) == pytest.approx((2 * first + second) / 3)
    assert request_span_s(WORK) == 5.0
    assert offered_load(INSTANCE) == pytest.approx((2 * first + second) / 3 / (3 * 2 * 5.0))


@pytest.mark.parametrize(
    ("kind", "release_s", "said"),
    [
        ([1, 1, 1], [0.0, 1.0, 2.0], "0 requests"),
        ([0, 1, 1], [0.0, 1.0, 2.0], "1 requests"),
        ([0, 0, 1], [4.0, 4.0, 9.0], "2 requests, all at once"),
        ([], [], "0 requests"),
    ],
)
def test_no_span_is_an_error(kind: list[int], release_s: list[float], said: str) -> None:
    tasks = len(kind)
    work = Workload(np.array(kind, dtype=int), np.array(release_s), np.ones(tasks, int), 8)
    instance = Instance(Cluster(1, 1, 1.0), work, Costs(np.ones((1, tasks, 1)), 0.0, 0.0, 0.0))
    with pytest.raises(FieldError, match=rf"{said}; expected requests that arrive at two moments"):
        offered_load(instance)


def test_a_study_without_a_span_says_so() -> None:
    with pytest.raises(FieldError, match=r"release_s: 1 requests; .* take more tasks"):
        build(Study(tasks=2, training_share=0.5))
    with pytest.raises(FieldError, match="release_s: 0 requests"):
        offered_load(Condition(4.0, 1.0, 0.2, 1, tasks=10).problem().instance)


@pytest.mark.parametrize("load", [0.3, 0.9, 1.7])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_study_has_the_load_that_was_asked_for(load: float, share: float) -> None:
    problem = build(Study(tasks=200, training_share=share, load=load, all_reduce_s=0.01))
    instance = problem.trace.instance
    assert offered_load(instance) == pytest.approx(load, rel=0.01)
    assert problem.head["load"].startswith(f"{offered_load(instance):.3f},")


def test_the_load_is_that_of_predictions_whatever_is_planned_with() -> None:
    plain, careful = (build(Study(load=0.9, time_quantile=q)) for q in (None, 0.9))
    assert plain.head["load"] == careful.head["load"]


def test_a_grid_of_lemix_studies_has_the_same_load() -> None:
    condition = Condition(8.0, 0.5, 0.2, 0, tasks=30)
    rows = run_study((Grid((condition,), (Variant("mix-rr", "mix-rr"),)),), seeds=2).runs
    assert rows[0]["load"] == offered_load(condition.problem().instance)
