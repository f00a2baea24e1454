"""Integer starts become the schedules they stand for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from strategies import instances

from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.schedule import BACKWARD, FORWARD, UPDATE
from lemix_opt.validation import validate
from solvers import solve
from solvers.exact.readout import schedule_from


def test_updates_follow_and_releases_come_from_the_closed_loop() -> None:
    one = np.ones((1, 2, 1))
    costs = Costs(one, 2 * one, 0.0, 0.0, update_s=1.0)
    instance = Instance(Cluster(2, 1, 1.0), Workload([1, 1], [0.0, 0.0], 1, 8), costs, tick_s=0.5)
    starts = {(0, FORWARD, 0): 0, (0, BACKWARD, 0): 2, (1, FORWARD, 0): 2, (1, BACKWARD, 0): 4}
    schedule = schedule_from(instance, np.array([0, 1]), starts)
    assert validate(instance, schedule) == []
    assert schedule.release_s.tolist() == [0.0, 1.0]
    rows = schedule.operations
    assert rows.start_s[rows.phase == UPDATE].tolist() == [3.0, 4.0]
    assert schedule.end_s().tolist() == [4.0, 5.0]


@given(instances(max_tasks=6))
@settings(max_examples=40, deadline=None)
def test_a_simulated_schedule_on_the_grid_comes_back(instance: Instance) -> None:
    made = solve(instance, "jsq").schedule
    assert made is not None
    rows = made.operations
    ticks = np.rint(rows.start_s / instance.tick_s)
    if not made.complete or np.any(np.abs(ticks * instance.tick_s - rows.start_s) > 1e-9):
        return
    keys = zip(rows.task.tolist(), rows.phase.tolist(), rows.stage.tolist(), strict=True)
    starts = {
        key: int(t) for key, t in zip(keys, ticks, strict=True) if key[1] in (FORWARD, BACKWARD)
    }
    back = schedule_from(instance, made.node, starts)
    assert back.node.tolist() == made.node.tolist()
    np.testing.assert_allclose(back.end_s(), made.end_s(), atol=1e-9)
    np.testing.assert_allclose(back.release_s, made.release_s, atol=1e-9)
