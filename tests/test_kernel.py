"""The compiled event loop: equal to the slow one, whatever the policy does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_engine import slow_simulate
from strategies import instances

from lemix_opt import (
    Assign,
    Cluster,
    Costs,
    Defer,
    Event,
    Instance,
    LemixError,
    Schedule,
    Workload,
    simulate,
)
from lemix_opt.engine.codes import DEFER_TIME
from lemix_opt.engine.compiled import CompiledPolicy
from solvers.registry import POLICIES


@dataclass
class Whimsical:
    """Places and puts off at random, and keeps a diary of all it is told."""

    seed: int
    observes: tuple[str, ...] = ("assign", "start", "end", "drop")

    def start(self, instance: Instance, rng: np.random.Generator) -> dict[str, Any]:
        self.diary: list[tuple[Any, ...]] = []
        return {"nodes": instance.cluster.nodes, "rng": np.random.default_rng(self.seed), "put": {}}

    def decide(self, state: dict[str, Any], now_s: float, task: int) -> Assign | Defer:
        self.diary.append(("decide", now_s, task))
        often = state["put"][task] = state["put"].get(task, 0) + 1
        draw = int(state["rng"].integers(8))
        if often < 4 and draw < 3:
            return Defer("time", now_s + 0.5 + draw, keeps_place=draw == 1)
        if often < 4 and draw == 3:
            return Defer("next_inference_done", keeps_place=False)
        return Assign(int(state["rng"].integers(state["nodes"])))

    def observe(self, state: dict[str, Any], event: Event) -> None:
        memory = None if np.isnan(event.memory_bytes) else round(event.memory_bytes, 6)
        self.diary.append((*event[:6], memory))


def others(instance: Instance, seed: int) -> Costs:
    """Draw actual costs, some of which need more memory than any GPU has."""
    rng = np.random.default_rng(seed)
    costs = instance.costs
    return Costs(
        costs.forward_s * rng.uniform(0.5, 2, costs.forward_s.shape),
        costs.backward_s * rng.uniform(0.5, 2, costs.backward_s.shape),
        costs.held_bytes + rng.integers(0, 3, costs.held_bytes.shape),
        costs.resident_bytes,
        costs.update_s,
        costs.hop_s,
        costs.all_reduce_s,
    )


def explain(fast: Schedule, slow: Schedule, instance: Instance) -> str:
    rows = [s.operations for s in (fast, slow)]
    return f"{instance}\n" + "\n".join(
        f"{name}: {getattr(rows[0], name)} {getattr(rows[1], name)}"
        for name in ("task", "phase", "stage", "node", "start_s", "end_s")
    )


@settings(max_examples=400, deadline=None)
@given(instances(max_tasks=9, beyond=True, shared=None), st.integers(0, 10**6), st.booleans())
def test_agrees_with_the_slow_engine_event_by_event(
    instance: Instance, seed: int, surprised: bool
) -> None:
    actual = others(instance, seed) if surprised else None
    fast_policy, slow_policy = Whimsical(seed), Whimsical(seed)
    fast = simulate(instance, fast_policy, actual=actual)
    slow = slow_simulate(instance, slow_policy, actual=actual)
    assert fast == slow, explain(fast, slow, instance)
    assert fast_policy.diary == slow_policy.diary


@settings(max_examples=20, deadline=None)
@given(
    instances(max_tasks=60, beyond=True, shared=None),
    st.sampled_from(["jsq", "lemix", "mix-rr", "lemix-reference"]),
)
def test_agrees_with_the_slow_engine_under_known_policies(instance: Instance, name: str) -> None:
    fast = simulate(instance, POLICIES.create(name))
    slow = slow_simulate(instance, POLICIES.create(name))
    assert fast == slow, explain(fast, slow, instance)


class LateTurns(CompiledPolicy):
    """Round robin, half a second after the release."""

    observes = ("start",)

    def numbers(self, instance: Instance, rng: np.random.Generator) -> Any:
        return np.zeros(2 + instance.tasks)

    @staticmethod
    def decide_function(now_s: float, task: int, view: Any, state: Any) -> int:
        if state[2 + task] == 0:
            state[2 + task] = 1
            state[0] = now_s + 0.5
            return DEFER_TIME
        return (task + int(state[1])) % view.node_class.size

    @staticmethod
    def observe_function(
        kind: int,
        time_s: float,
        task: int,
        node: int,
        phase: int,
        stage: int,
        memory_bytes: float,
        view: Any,
        state: Any,
    ) -> int:
        state[1] += 1
        return 0


@dataclass
class InPython:
    """The same compiled policy, asked and told one step at a time."""

    inner: CompiledPolicy

    def __post_init__(self) -> None:
        self.start, self.decide = self.inner.start, self.inner.decide
        self.observe = self.inner.observe


@settings(max_examples=30, deadline=None)
@given(instances(max_tasks=20, beyond=True, shared=None))
def test_a_compiled_policy_does_the_same_in_machine_code_and_in_python(instance: Instance) -> None:
    assert simulate(instance, LateTurns()) == simulate(instance, InPython(LateTurns()))


def test_many_events_between_two_decisions_reach_the_policy() -> None:
    instance = Instance(*_one_gpu(tasks=6000), release_mode="open", gpu_order="fifo")
    policy = Whimsical(0)
    policy.decide = lambda state, now_s, task: Assign(0)  # type: ignore[method-assign]
    simulate(instance, policy)
    assert sum(row[0] == "end" for row in policy.diary) == 6000


def _one_gpu(tasks: int) -> tuple[Any, ...]:
    return (
        Cluster(1, 1, 1.0),
        Workload(np.zeros(tasks, dtype=int), np.zeros(tasks), 1, 1),
        Costs(np.ones((1, tasks, 1)), 0.0, 0.0, 0.0),
    )


@pytest.mark.parametrize("node", [-1, 2, 10**6])
def test_a_node_that_does_not_exist_is_named(node: int) -> None:
    instance = Instance(*_one_gpu(3))
    policy = Whimsical(0)
    policy.decide = lambda state, now_s, task: Assign(node)  # type: ignore[method-assign]
    with pytest.raises(LemixError, match=f"placed task 0 on node {node}"):
        simulate(instance, policy)
