"""Cluster, workload, costs, instance, schedule: what is accepted and how refusals read."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from lemix_opt import Cluster, Costs, Instance, Operations, Schedule, Workload
from lemix_opt.errors import FieldError, InfeasibleError


def costs(tasks: int = 2, stages: int = 2, held: float = 1.0, classes: int = 1) -> Costs:
    shape = (classes, tasks, stages)
    return Costs(np.full(shape, 2.0), np.ones(shape), np.full(shape, held), 0.0)


def instance(**rules: object) -> Instance:
    workload = Workload([0, 1], [0.0, 0.5], 1, 10)
    return Instance(Cluster(2, 2, 10.0), workload, costs(), **rules)


def test_scalars_are_broadcast_and_arrays_are_frozen() -> None:
    cluster = Cluster(2, 3, 5.0)
    assert cluster.memory_bytes.shape == (2, 3)
    assert cluster.classes == 1
    with pytest.raises(ValueError, match="read-only"):
        cluster.memory_bytes[0, 0] = 1.0


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("release_s", [0.0, float("nan")], r"release_s\[1\]: value nan"),
        ("release_s", [0.0, float("inf")], r"release_s\[1\]: value inf"),
        ("release_s", [0.0, -1.0], r"release_s\[1\]: value -1.0; expected at least 0"),
        ("prompt_tokens", [5, 0], r"prompt_tokens\[1\]: value 0; expected at least 1"),
        ("prompt_tokens", [5, 2.5], r"prompt_tokens\[1\]: value 2.5; expected a whole number"),
        ("batch", [1, 2, 3], r"batch: shape \(3,\); expected shape \(2,\)"),
        ("kind", [0, 2], r"kind\[1\]: value 2; expected at most 1"),
        ("slo_s", [1.0, 0.0], r"slo_s\[1\]: value 0.0; expected more than 0"),
        ("weight", ["a", "b"], "weight: entries of type"),
    ],
)
def test_workload_names_the_first_bad_entry(field: str, value: object, found: str) -> None:
    good = {"kind": [0, 0], "release_s": [0.0, 1.0], "batch": 1, "prompt_tokens": 5}
    with pytest.raises(FieldError, match=found):
        Workload(**(good | {field: value}))


def test_releases_may_interleave_between_kinds_but_not_go_back_within_one() -> None:
    Workload([0, 1, 0], [1.0, 0.0, 2.0], 1, 5)
    with pytest.raises(FieldError, match=r"release_s\[1\].*before"):
        Workload([0, 0], [1.0, 0.0], 1, 5)


def test_a_forward_takes_time() -> None:
    with pytest.raises(FieldError, match=r"forward_s\[0, 0, 0\].*more than 0"):
        Costs(np.zeros((1, 1, 1)), 0.0, 0.0, 0.0)


def test_instance_computes_and_keeps_its_slo_unit() -> None:
    whole = instance()
    assert whole.slo_unit_s == pytest.approx(4.0)
    part = whole.window(np.array([1]))
    assert part.slo_unit_s == whole.slo_unit_s
    assert part.tasks == 1


def test_an_slo_unit_is_a_number() -> None:
    with pytest.raises(FieldError, match="slo_unit_s"):
        replace(instance(), slo_unit_s="x")


def test_costs_must_cover_the_workload() -> None:
    with pytest.raises(FieldError, match="classes, tasks, stages"):
        Instance(Cluster(1, 2, 10.0), Workload([0], [0.0], 1, 5), costs())


def test_a_task_that_fits_nowhere_is_named() -> None:
    workload = Workload([0, 1], [0.0, 0.0], 1, 10)
    with pytest.raises(InfeasibleError, match="task 0 fits on no node"):
        Instance(Cluster(2, 2, 10.0), workload, costs(held=11.0))


@pytest.mark.parametrize(
    ("rule", "value"),
    [("release_mode", "asynch"), ("gpu_order", "lifo"), ("tick_s", 0.0), ("micro_batches", 2)],
)
def test_rules_out_of_range_are_refused(rule: str, value: object) -> None:
    with pytest.raises(FieldError, match=rule):
        instance(**{rule: value})


def test_schedule_sorts_operations_and_reports_ends() -> None:
    rows = Operations([0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [2.0, 0.0], [4.0, 2.0])
    schedule = Schedule([0, -1], rows, [0, 3], [0.0, np.inf])
    assert schedule.operations.stage.tolist() == [0, 1]
    assert schedule.end_s().tolist() == [4.0, np.inf]
    assert not schedule.complete


def test_operations_end_after_they_start() -> None:
    with pytest.raises(FieldError, match=r"end_s\[0\]"):
        Operations([0], [0], [0], [0], [0], [2.0], [1.0])


def test_masks_of_kinds_are_made_once_and_cannot_be_changed() -> None:
    work = Workload([0, 1, 0], [0.0, 0.5, 1.0], 1, 10)
    assert work.is_training is work.is_training
    assert work.is_inference is work.is_inference
    for mask in (work.is_training, work.is_inference):
        with pytest.raises(ValueError, match="read-only"):
            mask[0] = True
    turned = replace(work, kind=[1, 0, 1])
    assert turned.is_training.tolist() == [True, False, True]
    assert turned.is_inference.tolist() == [False, True, False]
    for again in (pickle.loads(pickle.dumps(work)), copy.deepcopy(work), replace(work)):
        assert again == work
        assert again.is_training.tolist() == [False, True, False]
    assert work.take(np.array([1])).is_training.tolist() == [True]


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_sorted_unless_they_are_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(0, 9))
    columns = [rng.integers(0, 3, rows) for _ in range(5)]
    drawn = Operations(*columns, np.arange(rows), np.arange(rows) + 1.0)
    found = drawn.sorted()
    keys = list(zip(found.task, found.phase, found.stage, found.micro_batch, strict=True))
    assert keys == sorted(keys)
    assert found.sorted() is found
    assert set(found.start_s) == set(drawn.start_s)


def test_nodes_that_fit_are_found_whatever_differs_between_them() -> None:
    rng = np.random.default_rng(0)
    held = rng.integers(1, 9, (2, 30, 2))
    cluster = Cluster(5, 2, rng.integers(9, 12, (5, 2)), [0, 1, 0, 1, 0])
    work = Workload([1] * 30, np.arange(30.0), 1, 1)
    costs = Costs(np.ones((2, 30, 2)), 1.0, held, [[1.0, 2.0], [3.0, 0.0]])
    found = Instance(cluster, work, costs).fits()
    for task in range(30):
        for node in range(5):
            kind = cluster.node_class[node]
            need = costs.held_bytes[kind, task] + costs.resident_bytes[kind]
            assert found[task, node] == np.all(need <= cluster.memory_bytes[node])
