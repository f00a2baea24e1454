"""The engine as a system that tasks come to one by one: what later ones cannot change."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from slow_engine import slow_simulate

from lemix_opt import Cluster, Costs, Instance, Schedule, Workload, simulate, validate
from lemix_opt.instance import GPU_ORDERS, RELEASE_MODES
from solvers.registry import POLICIES

# Not lemix-reference: its coefficients and its end of deferral come from the whole workload.
ONLINE = ("lemix", "mix-rr", "mix-luf", "jsq", "least-work-left")
SECONDS = st.integers(1, 6)


class Arrivals(RuleBasedStateMachine):
    """Every rule adds a task; after each, the whole history is executed anew."""

    @initialize(
        nodes=st.integers(1, 3),
        stages=st.integers(1, 3),
        policy=st.sampled_from(ONLINE),
        order=st.sampled_from(GPU_ORDERS),
        mode=st.sampled_from(RELEASE_MODES),
        fifo=st.booleans(),
    )
    def start(
        self, nodes: int, stages: int, policy: str, order: str, mode: str, fifo: bool
    ) -> None:
        self.cluster = Cluster(nodes, stages, 8.0)
        self.policy = policy
        self.rules = {"gpu_order": order, "release_mode": mode, "fifo": fifo, "slo_unit_s": 4.0}
        self.tasks: list[tuple[int, float, int, int, int]] = []
        self.now_s = 0.0
        self.before: Schedule | None = None
        self.after: Schedule | None = None

    def instance(self) -> Instance:
        kind, release, forward, backward, held = (
            np.array(column) for column in zip(*self.tasks, strict=True)
        )
        shape = (1, len(self.tasks), self.cluster.stages)
        spread = [np.broadcast_to(c[None, :, None], shape) for c in (forward, backward, held)]
        work = Workload(kind, release, 1, 1 + held)
        return Instance(self.cluster, work, Costs(*spread, 1.0), **self.rules)

    def add(self, kind: int, later: int, forward: int, backward: int, held: int) -> None:
        self.now_s += later
        self.tasks.append((kind, self.now_s, forward, backward, held))
        self.before = self.after
        self.after = simulate(self.instance(), POLICIES.create(self.policy))

    @rule(later=st.integers(0, 5), forward=SECONDS, held=st.integers(0, 7))
    def request(self, later: int, forward: int, held: int) -> None:
        self.add(0, later, forward, 0, held)

    @rule(later=st.integers(0, 5), forward=SECONDS, backward=SECONDS, held=st.integers(0, 7))
    def training(self, later: int, forward: int, backward: int, held: int) -> None:
        self.add(1, later, forward, backward, held)

    @precondition(lambda self: self.before is not None)
    @invariant()
    def the_past_stays(self) -> None:
        """What began before the newest task came began just so without it."""
        assert self.before is not None
        assert self.after is not None
        known = len(self.tasks) - 1
        old, new = (past(s, self.now_s, known) for s in (self.before, self.after))
        assert old == new

    @precondition(lambda self: self.after is not None)
    @invariant()
    def nothing_is_lost(self) -> None:
        """All tasks end, the schedule keeps the rules, and busy plus idle is the span."""
        assert self.after is not None
        instance = self.instance()
        assert self.after.complete
        assert validate(instance, self.after) == []
        rows = self.after.operations
        gpu = rows.node * self.cluster.stages + rows.stage
        for g in np.unique(gpu):
            mine = gpu == g
            order = np.argsort(rows.start_s[mine])
            begin, end = rows.start_s[mine][order], rows.end_s[mine][order]
            idle = float(np.sum(begin[1:] - end[:-1]))
            assert idle >= 0
            assert float(np.sum(end - begin)) + idle == end[-1] - begin[0]

    def teardown(self) -> None:
        """The slow engine agrees about the whole history."""
        if getattr(self, "after", None) is not None:
            slow = slow_simulate(self.instance(), POLICIES.create(self.policy))
            assert self.after == slow


def past(schedule: Schedule, until_s: float, tasks: int) -> list[tuple[Any, ...]]:
    """Operations of the first tasks that began before a moment."""
    rows = schedule.operations
    early = np.flatnonzero((rows.start_s < until_s) & (rows.task < tasks))
    columns = (rows.task, rows.phase, rows.stage, rows.node, rows.start_s)
    return list(zip(*(c[early].tolist() for c in columns), strict=True))


def test_tasks_that_come_later_do_not_change_the_past() -> None:
    run_state_machine_as_test(
        Arrivals, settings=settings(max_examples=150, stateful_step_count=12, deadline=None)
    )
