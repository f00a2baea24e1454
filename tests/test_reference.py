"""`lemix-reference` in the engine: training that is turned away."""

from __future__ import annotations

import numpy as np

from lemix_opt import Assign, Cluster, Costs, Defer, Instance, Workload
from lemix_opt.engine import simulate
from solvers.online.reference import LemixReference, ReferenceState


class Diary(LemixReference):
    """Keeps what was answered for training."""

    def decide(self, state: ReferenceState, now_s: float, task: int) -> Assign | Defer:
        answer = super().decide(state, now_s, task)
        if state.training[task]:
            DIARY.append((now_s, task, isinstance(answer, Defer)))
        return answer


DIARY: list[tuple[float, int, bool]] = []


def test_two_tasks_are_tried_again_and_the_others_wait() -> None:
    kind = np.array([0, 0, 1, 1, 1, 1, 0])
    release_s = np.array([0.0, 0.0, 0.01, 0.01, 0.01, 0.01, 2.0])
    costs = Costs(np.full((1, 7, 2), 0.3), 0.6, 0.0, 0.0)
    instance = Instance(Cluster(1, 2, 1.0), Workload(kind, release_s, 1, 100), costs)
    DIARY.clear()
    schedule = simulate(instance, Diary(variant="pure", slo_threshold_s=0.04))
    first = [row for row in DIARY if row[0] < 0.5]
    assert all(turned_away for _, _, turned_away in first)
    assert {task for _, task, _ in first} == {2, 3}
    moments = np.array([now_s for now_s, task, _ in first if task == 2])
    assert np.allclose(np.diff(moments), 0.01)
    assert [task for _, task, _ in first][:6] == [2, 3, 2, 3, 2, 3]
    # The published code never runs a last task that was turned away; here all training runs.
    assert schedule.complete
    assert schedule.start_s()[2:6].min() >= 2.0
