"""`shortest-response`: where an independent timeline predicts the earliest end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_timeline import NodeTimeline
from strategies import instances

from lemix_opt import Assign, Instance
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError
from solvers.online.shortest_response import ShortestResponse


class Slow:
    """The rule with lists and dictionaries."""

    def __init__(self, nodes: int | None) -> None:
        self.nodes = nodes

    def start(self, instance: Instance, rng: np.random.Generator) -> Any:
        stages = instance.cluster.stages
        return instance, [NodeTimeline(stages) for _ in range(instance.cluster.nodes)]

    def _predict(self, state: Any, node: int, task: int, now_s: float) -> Any:
        instance, timelines = state
        kind, costs = int(instance.cluster.node_class[node]), instance.costs
        trains = bool(instance.workload.is_training[task])
        return timelines[node].predict(
            now_s,
            costs.forward_s[kind, task].tolist(),
            costs.backward_s[kind, task].tolist() if trains else None,
            costs.hop_s[kind, task].tolist(),
        )

    def decide(self, state: Any, now_s: float, task: int) -> Assign:
        instance = state[0]
        nodes = range(min(self.nodes or instance.cluster.nodes, instance.cluster.nodes))
        fitting = [n for n in nodes if instance.fits()[task, n]]
        return Assign(
            min(fitting, key=lambda n: self._predict(state, n, task, now_s).end_s, default=0)
        )

    def observe(self, state: Any, event: Any) -> None:
        timeline = state[1][event.node]
        if event.kind == "assign":
            predicted = self._predict(state, event.node, event.task, event.time_s)
            timeline.place(event.task, event.time_s, predicted)
        elif event.kind == "drop":
            timeline.dropped(event.task)
        elif event.kind == "end":
            timeline.ended(event.task, event.phase, event.stage, event.time_s)


@given(instances(max_tasks=25), st.sampled_from([None, 1, 2]))
@settings(max_examples=100, deadline=None)
def test_it_agrees_with_lists_and_dictionaries(instance: Instance, nodes: int | None) -> None:
    fast = simulate(instance, ShortestResponse(nodes))
    assert fast == simulate(instance, Slow(nodes))


def test_bad_parameters_are_named() -> None:
    with pytest.raises(FieldError, match="nodes"):
        ShortestResponse(0)
