"""The own train+serve suite: valid instances on the grid, with the load and memory it claims."""

from __future__ import annotations

import numpy as np
import pytest

from instances.benchmarks.serving import (
    LOADS,
    SIZES,
    serving,
    serving_instance,
    serving_large,
    serving_medium,
    serving_small,
)
from lemix_opt import simulate, validate
from lemix_opt.errors import FieldError, UnknownNameError
from lemix_opt.grid import on_grid
from solvers.registry import POLICIES


def test_three_sizes_three_loads_and_seeds() -> None:
    found = serving(2)
    assert len({b.cell for b in found}) == 9
    assert len(found) == 18
    parts = serving_small(2), serving_medium(2), serving_large(2)
    names = [b.name for part in parts for b in part]
    assert names == [b.name for b in found]
    assert all(list(b.objectives) == ["slo", "inference", "makespan"] for b in found)
    assert all("synthetic" in b.source for b in found)


@pytest.mark.parametrize("size", SIZES)
def test_instances_are_what_they_say(size: str) -> None:
    tasks, nodes, stages = SIZES[size]
    for load in LOADS:
        instance = serving_instance(tasks, nodes, stages, load, 0)
        work, costs = instance.workload, instance.costs
        assert instance == serving_instance(tasks, nodes, stages, load, 0)
        assert instance.release_mode == "async"
        assert work.is_training.sum() == round(0.4 * tasks)
        assert 20 <= work.prompt_tokens.min() <= work.prompt_tokens.max() <= 1024
        for times in (costs.forward_s, costs.backward_s, work.release_s):
            assert on_grid(times, instance.tick_s)
        span = work.release_s[-1] - work.release_s[0]
        found = (costs.forward_s + costs.backward_s)[0, :, 0].sum() / (nodes * span)
        assert load <= found + 0.01
        assert found <= 1.7 * load
        held = costs.held_bytes[0, work.is_training, 0]
        room = instance.cluster.memory_bytes[0, 0]
        assert room >= max(held.max(), 3 * held.mean())
        slo_s = work.slo_s[work.is_inference]
        assert slo_s[0] == pytest.approx(5 * stages * costs.forward_s.mean(), abs=0.001)
        schedule = simulate(instance, POLICIES.create("mix-rr"))
        assert validate(instance, schedule) == []


def test_objectives_weigh_requests_as_the_instances_of_the_exact_side() -> None:
    benchmark = serving_small(1)[0]
    slo_s = float(benchmark.instance.workload.slo_s.min())
    objective = benchmark.objective("slo")
    assert (objective.inference_response, objective.training_response) == (4, 1)
    assert objective.late_penalty_s == pytest.approx(4 * slo_s)
    assert benchmark.objective() == objective
    with pytest.raises(UnknownNameError, match="Did you mean 'inference'"):
        benchmark.objective("inferenc")


def test_tiny_and_wrong_arguments() -> None:
    tiny = serving_instance(2, 1, 1, 0.9, 0)
    assert np.sort(tiny.workload.kind).tolist() == [0, 1]
    with pytest.raises(FieldError, match="load"):
        serving_instance(10, 2, 2, 0.0, 0)
    with pytest.raises(FieldError, match="tasks"):
        serving_instance(1, 2, 2, 0.9, 0)
    with pytest.raises(UnknownNameError, match="Did you mean 'small'"):
        serving(1, size="smal")
