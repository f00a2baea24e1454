"""`edf`: a central queue by due date, without idle nodes and without scans of the backlog."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_baselines import InPython

from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError
from lemix_opt.schedule import DONE
from solvers.online.due_date import EarliestDueDate


def queue(seed: int, tasks: int, nodes: int, load: float, share: float = 0.0) -> Instance:
    rng = np.random.default_rng(seed)
    seconds = rng.uniform(0.5, 1.5, (1, tasks, 1))
    release_s = np.sort(rng.uniform(0, tasks / (nodes * load), tasks))
    kind = (rng.random(tasks) < share).astype(int)
    slo_s = np.where(kind == 0, rng.choice([1.0, 3.0, 50.0], tasks), np.inf)
    work = Workload(kind, release_s, 1, 8, slo_s=slo_s)
    costs = Costs(seconds, 2 * seconds, 0.0, 0.0)
    return Instance(Cluster(nodes, 1, 1.0), work, costs, release_mode="open")


def central_queue(instance: Instance) -> list[float]:
    """Return start times when every free server takes the waiting task that is due first."""
    work = instance.workload
    due = (work.release_s + work.slo_s).tolist()
    release, seconds = work.release_s.tolist(), instance.costs.forward_s[0, :, 0].tolist()
    free_at = [0.0] * instance.cluster.nodes
    start = [0.0] * instance.tasks
    left = set(range(instance.tasks))
    while left:
        server = min(range(len(free_at)), key=lambda n: free_at[n])
        now = max(free_at[server], min(release[i] for i in left))
        task = min((i for i in left if release[i] <= now), key=lambda i: (due[i], i))
        start[task] = now
        free_at[server] = now + seconds[task]
        left.remove(task)
    return start


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 4), st.floats(0.3, 3))
@settings(max_examples=100, deadline=None)
def test_it_is_the_central_queue_when_predictions_come_true(
    seed: int, tasks: int, nodes: int, load: float
) -> None:
    instance = queue(seed, tasks, nodes, load)
    found = simulate(instance, EarliestDueDate()).start_s()
    assert found == pytest.approx(central_queue(instance), abs=1e-6)


def test_training_waits_for_requests_and_runs_in_the_end() -> None:
    instance = queue(1, 60, 2, 3.0, share=0.5)
    schedule = simulate(instance, EarliestDueDate())
    assert set(schedule.end_state.tolist()) == {DONE}
    trains = instance.workload.is_training
    last_request = schedule.start_s()[~trains].max()
    released = instance.workload.release_s
    waiting = trains & (schedule.start_s() > released + 3.0)
    assert waiting.any()
    assert np.median(schedule.start_s()[trains]) > np.median(schedule.start_s()[~trains])
    assert schedule.start_s()[trains].max() > last_request


class Counting(EarliestDueDate):
    """Counts how often it is asked."""

    asked = 0

    def decide(self, state: object, now_s: float, task: int) -> object:  # type: ignore[override]
        type(self).asked += 1
        return super().decide(state, now_s, task)  # type: ignore[arg-type]


@pytest.mark.parametrize("tasks", [500, 4000])
def test_a_growing_backlog_costs_a_logarithm_per_task(tasks: int) -> None:
    Counting.asked = 0
    simulate(queue(2, tasks, 4, 4.0), InPython(Counting()))
    assert Counting.asked < 3 * np.log2(tasks) * tasks


def test_bad_parameters_are_named() -> None:
    with pytest.raises(FieldError, match="slo_units"):
        EarliestDueDate(slo_units=0.0)
