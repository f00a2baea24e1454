"""Nodes that can never hold a task: no rule places it there, but the published score."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances, of_unlike_memory

from lemix_opt import Cluster, Costs, Instance, Policy, Schedule, Workload, simulate, validate
from lemix_opt.engine.view import fits, view_of
from lemix_opt.errors import InfeasibleError
from lemix_opt.policy import FixedAssignment
from lemix_opt.schedule import DROPPED
from solvers.online.baselines import Separate
from solvers.online.dynamic_separate import DynamicSeparate
from solvers.online.reference import LemixReference
from solvers.registry import POLICIES

DOCS = Path(__file__).resolve().parents[1] / "docs"
WRAPPERS = ("corrected", "unprofiled")
RULES = sorted(set(POLICIES) - {"lemix-reference", *WRAPPERS})
KEPT = [name for name in RULES if "nodes" in POLICIES.parameters(name)]
READINGS = ("inverse_idleness", "subtraction")


def alone(instance: Instance, task: int, node: int) -> bool:
    """Whether a task gets its memory on an empty node, said in another way than `fits`."""
    work, kind = instance.workload, int(instance.cluster.node_class[node])
    for stage in range(instance.cluster.stages):
        held = float(instance.costs.held_bytes[kind, task, stage])
        if work.is_training[task] and instance.micro_batches > 1:
            most = instance.micro_batches
            if instance.pipeline == "1f1b":
                most = min(most, instance.cluster.stages - stage)
            held = held / instance.micro_batches * most
        if instance.generation is not None and work.is_inference[task]:
            assert instance.costs.iteration is not None
            tokens = int(work.prompt_tokens[task] + work.output_tokens[task]) - 1
            held = tokens * float(instance.costs.iteration.kv_bytes_per_token[kind, stage])
        memory = float(instance.cluster.memory_bytes[node, stage])
        resident = float(instance.costs.resident_bytes[kind, stage])
        most_bytes = instance.memory_fraction * memory
        if resident > most_bytes:
            return False
        if instance.memory_rule == "reference_threshold":
            most_bytes = memory
        if resident + held > most_bytes + 1e-9:
            return False
    return True


def expect_all_done(instance: Instance, schedule: Schedule) -> None:
    for task, node in enumerate(schedule.node.tolist()):
        assert alone(instance, task, node), f"task {task} on node {node}"
    assert schedule.complete
    assert validate(instance, schedule) == []


@settings(max_examples=300, deadline=None)
@given(of_unlike_memory(), st.sampled_from(RULES), st.integers(0, 99))
def test_every_rule_completes_what_fits_somewhere(instance: Instance, name: str, seed: int) -> None:
    expect_all_done(instance, simulate(instance, POLICIES.create(name), seed=seed))


@settings(max_examples=100, deadline=None)
@given(of_unlike_memory(), st.sampled_from(READINGS), st.integers(0, 99))
def test_every_reading_of_lemix_does(instance: Instance, reading: str, seed: int) -> None:
    policy = POLICIES.create("lemix", reading=reading)
    expect_all_done(instance, simulate(instance, policy, seed=seed))


@settings(max_examples=100, deadline=None)
@given(of_unlike_memory(), st.sampled_from(WRAPPERS), st.sampled_from(RULES), st.integers(0, 99))
def test_every_rule_does_within_another(
    instance: Instance, outer: str, inner: str, seed: int
) -> None:
    # Corrections know no micro-batches.
    parts = {"micro_batches": 1, "pipeline": "plain"} if outer == "corrected" else {}
    try:
        instance = replace(instance, **parts)
    except InfeasibleError:
        # Under 1F1B a stage holds less of the task at once.
        return
    policy = POLICIES.create(f"{outer}:{inner}")
    expect_all_done(instance, simulate(instance, policy, seed=seed))


@settings(max_examples=150, deadline=None)
@given(of_unlike_memory(), st.sampled_from(KEPT), st.integers(1, 2), st.integers(0, 99))
def test_a_rule_kept_to_some_nodes_completes_all_or_refuses_before_the_run(
    instance: Instance, name: str, nodes: int, seed: int
) -> None:
    policy = POLICIES.create(name, nodes=nodes)
    if instance.fits()[:, :nodes].any(axis=1).all():
        schedule = simulate(instance, policy, seed=seed)
        assert np.all(schedule.node < nodes)
        expect_all_done(instance, schedule)
        return
    with pytest.raises(InfeasibleError, match=r"nodes: task \d+ does not fit on node"):
        simulate(instance, policy, seed=seed)


@settings(max_examples=150, deadline=None)
@given(of_unlike_memory() | instances(beyond=True, shared=None))
def test_compiled_rules_know_the_same_nodes_as_the_instance(instance: Instance) -> None:
    view, found = view_of(instance), instance.fits()
    assert view.all_fit == found.all()
    for task, node in np.ndindex(found.shape):
        assert fits(view, node, task) == found[task, node] == alone(instance, task, node)


def build(memory: list[float], kind: list[int], held: list[float], **rules: object) -> Instance:
    """One stage; a task's bytes are `held`, a second a task, a task a second."""
    size = np.array(held)[None, :, None]
    costs = Costs(np.ones_like(size), np.ones_like(size), size, 0.0)
    workload = Workload(kind, np.arange(len(kind), dtype=float), 1, 8)
    cluster = Cluster(len(memory), 1, np.array(memory)[:, None])
    return Instance(cluster, workload, costs, release_mode="open", **rules)  # type: ignore[arg-type]


def places(policy: Policy, instance: Instance, seed: int = 0) -> list[int]:
    return simulate(instance, policy, seed=seed).node.tolist()


def test_turns_count_the_nodes_that_fit() -> None:
    instance = build([1.0, 2.0, 1.0, 2.0], [0] * 8, [1, 2, 1, 2, 2, 1, 2, 2])
    assert places(POLICIES.create("mix-rr"), instance) == [0, 3, 2, 3, 1, 1, 1, 3]


def test_a_kind_whose_part_is_too_small_goes_wherever_it_fits() -> None:
    # Two nodes serve, two train; neither of the latter holds 2 bytes.
    instance = build([2.0, 2.0, 1.0, 1.0], [0, 1, 0, 1, 1, 1], [1, 2, 2, 1, 2, 2])
    assert places(Separate(0.5), instance) == [0, 1, 0, 3, 0, 1]
    mirrored = build([1.0, 1.0, 2.0, 2.0], [1, 0, 1, 0, 0, 0], [1, 2, 2, 1, 2, 2])
    assert places(Separate(0.5), mirrored) == [2, 3, 2, 1, 2, 3]
    assert places(DynamicSeparate(), mirrored)[1::2] == [3, 0, 3]


@pytest.mark.parametrize("name", ["random", "power-of-two"])
def test_draws_are_even_over_the_nodes_that_fit(name: str) -> None:
    tasks = 6000
    instance = build([1.0, 2.0, 2.0, 1.0, 2.0], [0] * tasks, [2] * tasks)
    # Nothing is ever open, so that the node drawn first is taken.
    workload = replace(instance.workload, release_s=10.0 * np.arange(tasks))
    found = Counter(places(POLICIES.create(name), replace(instance, workload=workload)))
    assert set(found) == {1, 2, 4}
    assert all(abs(count - tasks / 3) < 5 * (tasks * 2 / 9) ** 0.5 for count in found.values())


def test_power_of_two_draws_two_different_nodes_that_fit() -> None:
    # The second task comes while the first is open, so that it never joins it.
    instance = build([1.0, 2.0, 2.0], [0, 0], [2, 2])
    instance = replace(instance, workload=replace(instance.workload, release_s=[0.0, 0.5]))
    for seed in range(50):
        assert sorted(places(POLICIES.create("power-of-two"), instance, seed)) == [1, 2]


@pytest.mark.parametrize("name", ["random", "power-of-two"])
def test_tasks_that_fit_everywhere_are_drawn_as_if_there_were_no_others(name: str) -> None:
    same = build([1.0, 1.0, 1.0], [0] * 20, [1] * 20)
    mixed = build([2.0, 1.0, 2.0], [0] * 20, [1] * 19 + [2])
    for seed in range(10):
        pair = [places(POLICIES.create(name), one, seed)[:19] for one in (same, mixed)]
        assert pair[0] == pair[1]


def test_a_refusal_names_the_nodes_and_how_many_are_enough() -> None:
    instance = build([1.0, 1.0, 2.0], [0, 0], [1, 2])
    told = (
        "nodes: task 1 does not fit on nodes 0 to 1, to which the policy is kept; "
        "expected at least 3, with which every task fits on one"
    )
    with pytest.raises(InfeasibleError, match=told):
        simulate(instance, POLICIES.create("mix-rr", nodes=2))
    assert places(POLICIES.create("mix-rr", nodes=3), instance) == [0, 2]


@pytest.mark.parametrize("variant", ["as_is", "dealiased", "pure"])
def test_the_published_score_knows_no_memory_and_says_so(variant: str) -> None:
    instance = build([1.0, 2.0], [0, 0], [2, 2])
    schedule = simulate(instance, LemixReference(variant))
    assert schedule.end_state.tolist() == [DROPPED, DROPPED]
    assert [event[:2] for event in schedule.out_of_memory] == [(0, 0), (1, 0)]
    assert "does not look at memory" in " ".join((LemixReference.__doc__ or "").split())
    assert "does not look at memory" in (DOCS / "lemix.md").read_text(encoding="utf-8")


def test_a_policy_that_places_where_a_task_never_fits_loses_the_task_and_no_other() -> None:
    instance = build([1.0, 2.0], [0, 1, 0], [1, 2, 2])
    schedule = simulate(instance, FixedAssignment((0, 0, 1)))
    assert schedule.end_state.tolist() == [0, DROPPED, 0]
    assert [event[:3] for event in schedule.out_of_memory] == [(1, 0, 0)]
