"""Parallel machines: fixed by their seeds, in the ranges of their classes."""

from __future__ import annotations

import numpy as np
import pytest

from instances.benchmarks.machines import (
    CLASSES,
    identical,
    p_cmax,
    p_rj_cmax,
    r_cmax,
    released,
    unrelated,
)
from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance


def units(instance: Instance) -> np.ndarray:
    return np.rint(instance.costs.forward_s[:, :, 0] * 1000).astype(int)


def test_a_seed_fixes_an_instance() -> None:
    for build in (identical, released, unrelated):
        assert build(100, 4, 3) == build(100, 4, 3)
        assert build(100, 4, 3) != build(100, 4, 4)


def test_identical_machines() -> None:
    instance = identical(100, 4, 0)
    assert (instance.cluster.nodes, instance.cluster.stages, instance.costs.classes) == (4, 1, 1)
    found = units(instance)
    assert 1 <= found.min() < 10 < 90 < found.max() <= 100
    # Proven by an assignment MILP outside of this project's code.
    assert int(np.ceil(found.sum() / 4)) == 1132


def test_releases_are_sorted_and_spread_over_the_work() -> None:
    instance = released(100, 4, 1)
    release = np.rint(instance.workload.release_s * 1000)
    span = units(instance).sum() / 4
    assert (np.diff(release) >= 0).all()
    assert 0.9 * span < release[-1] <= span


@pytest.mark.parametrize("kind", CLASSES)
def test_unrelated_machines_are_node_classes(kind: str) -> None:
    instance = unrelated(100, 4, 0, kind)
    found = units(instance)
    assert instance.cluster.node_class.tolist() == [0, 1, 2, 3]
    assert found.min() >= (1 if kind == "uniform" else 2)
    assert found.max() <= (100 if kind == "uniform" else 120)
    if kind == "job":
        assert np.ptp(found, axis=0).max() <= 19
    if kind == "machine":
        assert np.ptp(found, axis=1).max() <= 19


def test_suites_hold_the_sizes_that_others_report_on() -> None:
    for suite in (p_cmax, p_rj_cmax, r_cmax):
        found = suite(2)
        assert any(b.cell.startswith("100x4") for b in found)
        assert len(found) == 2 * len({b.cell for b in found})
        assert len({b.name for b in found}) == len(found)
        assert all(list(b.objectives) == ["makespan"] for b in found)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(FieldError, match="kind"):
        unrelated(5, 2, 0, "jobs")
    with pytest.raises(FieldError, match="jobs"):
        identical(0, 2, 0)
    with pytest.raises(FieldError, match="seeds: 9; expected at most the 5"):
        p_cmax(9)
    with pytest.raises(FieldError, match="seeds"):
        p_cmax(0)
