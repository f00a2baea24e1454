"""The engine against queueing theory: M/G/1 waits, tandem queues, Little's law."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lemix_opt import Cluster, Costs, Instance, Schedule, Workload, simulate
from lemix_opt.policy import FixedAssignment
from solvers.registry import POLICIES

FloatArray = npt.NDArray[np.float64]
BATCHES = 50
TASKS = 2_000_000
# Service times with mean 1: draws, and their squared coefficient of variation.
SERVICE = {
    "M/D/1": (lambda rng, n: np.ones(n), 0.0),
    "M/M/1": (lambda rng, n: rng.exponential(1.0, n), 1.0),
    "M/G/1": (lambda rng, n: rng.gamma(0.5, 2.0, n), 2.0),
}


def serve(arrival_s: FloatArray, seconds: FloatArray) -> tuple[Instance, Schedule]:
    """Send inference tasks through one node, FIFO; `seconds` has a column per stage."""
    tasks, stages = seconds.shape
    instance = Instance(
        Cluster(1, stages, 1.0),
        Workload(np.zeros(tasks, dtype=int), arrival_s, 1, 1),
        Costs(seconds[None], 0.0, 0.0, 0.0),
        release_mode="open",
        gpu_order="fifo",
    )
    return instance, simulate(instance, POLICIES.create("mix-rr"))


@pytest.mark.parametrize(
    ("queue", "load", "runs"),
    [
        *[(queue, load, 1) for queue in SERVICE for load in (0.5, 0.8)],
        # Close to saturation waits are correlated over long times.
        *[("M/D/1", 0.95, 5), ("M/M/1", 0.95, 5), ("M/G/1", 0.95, 10)],
    ],
)
def test_mean_wait_of_a_single_server(queue: str, load: float, runs: int) -> None:
    """Pollaczek and Khinchine: ρ(1 + c²)/(2(1 − ρ)) services, within a 99.9 % interval.

    Two million tasks a run, the first tenth dropped, 50 batch means over all runs.
    """
    draw, squared_variation = SERVICE[queue]
    rng = np.random.default_rng([7, sorted(SERVICE).index(queue), int(100 * load)])
    means = np.empty((runs, BATCHES // runs))
    for run in range(runs):
        arrival_s = np.cumsum(rng.exponential(1 / load, TASKS))
        seconds = np.maximum(draw(rng, TASKS), 1e-12)[:, None]
        _, schedule = serve(arrival_s, seconds)
        wait_s = (schedule.operations.start_s - arrival_s)[TASKS // 10 :]
        means[run] = wait_s.reshape(means.shape[1], -1).mean(axis=1)
    theory = load * (1 + squared_variation) / (2 * (1 - load))
    half = stats.t.ppf(0.9995, BATCHES - 1) * means.std(ddof=1) / np.sqrt(BATCHES)
    assert half <= 0.05 * theory
    assert abs(means.mean() - theory) <= half


@pytest.mark.parametrize(("load", "runs"), [(0.5, 1), (0.8, 1), (0.95, 10)])
def test_mean_response_of_queues_in_tandem(load: float, runs: int) -> None:
    """Burke and Jackson: every stage is an M/M/1 queue of its own, Σ_s 1/(μ_s − λ) in all."""
    rng = np.random.default_rng([11, int(100 * load)])
    rates = np.array([1.0, 1.25, 2.0])
    means = np.empty((runs, BATCHES // runs))
    for run in range(runs):
        arrival_s = np.cumsum(rng.exponential(1 / load, TASKS))
        seconds = rng.exponential(1.0, (TASKS, rates.size)) / rates + 1e-12
        _, schedule = serve(arrival_s, seconds)
        response_s = (schedule.end_s() - arrival_s)[TASKS // 10 :]
        means[run] = response_s.reshape(means.shape[1], -1).mean(axis=1)
    theory = float(np.sum(1 / (rates - load)))
    half = stats.t.ppf(0.9995, BATCHES - 1) * means.std(ddof=1) / np.sqrt(BATCHES)
    assert half <= 0.05 * theory
    assert abs(means.mean() - theory) <= half


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 10**6))
def test_tandem_queues_follow_the_flow_shop_recurrence(tasks: int, stages: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1.0, tasks))
    seconds = rng.exponential(1.0, (tasks, stages)) + 1e-9
    end = np.zeros((tasks, stages))
    for i in range(tasks):
        for s in range(stages):
            ready = end[i, s - 1] if s else arrival_s[i]
            end[i, s] = max(ready, end[i - 1, s] if i else 0.0) + seconds[i, s]
    _, schedule = serve(arrival_s, seconds)
    assert np.array_equal(schedule.operations.end_s.reshape(tasks, stages), end)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 10**6))
def test_little_and_conservation(tasks: int, seed: int) -> None:
    """Time average of tasks in the system = arrivals per second times mean response."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1.0, tasks))
    seconds = rng.exponential(0.4, (tasks, 2)) + 1e-9
    instance, schedule = serve(arrival_s, seconds)
    end_s = schedule.end_s()
    horizon = float(end_s.max())
    # The number in the system, as a step function.
    moments = np.concatenate([arrival_s, end_s])
    steps = np.concatenate([np.ones(tasks), -np.ones(tasks)])
    order = np.argsort(moments, kind="stable")
    inside = np.cumsum(steps[order])[:-1]
    area = float(np.sum(inside * np.diff(moments[order])))
    response = end_s - instance.workload.release_s
    assert area / horizon == pytest.approx(tasks / horizon * response.mean())
    busy = (schedule.operations.end_s - schedule.operations.start_s).reshape(tasks, 2)
    assert busy == pytest.approx(seconds)


def test_a_faster_server_never_answers_later() -> None:
    """On one FIFO GPU, shorter services make every end earlier or equal."""
    rng = np.random.default_rng(1)
    arrival_s = np.cumsum(rng.exponential(1.0, 500))
    seconds = rng.exponential(0.9, (500, 1)) + 1e-9
    slow = serve(arrival_s, seconds)[1].end_s()
    fast = serve(arrival_s, seconds * rng.uniform(0.3, 1, seconds.shape))[1].end_s()
    assert np.all(fast <= slow)


def test_two_servers_in_turn_are_two_single_ones() -> None:
    rng = np.random.default_rng(2)
    tasks = 400
    arrival_s = np.cumsum(rng.exponential(1.0, tasks))
    seconds = rng.exponential(1.5, (tasks, 1)) + 1e-9
    both = simulate(
        Instance(
            Cluster(2, 1, 1.0),
            Workload(np.zeros(tasks, dtype=int), arrival_s, 1, 1),
            Costs(seconds[None], 0.0, 0.0, 0.0),
            release_mode="open",
            gpu_order="fifo",
        ),
        FixedAssignment(tuple(i % 2 for i in range(tasks))),
    )
    for node in (0, 1):
        alone = serve(arrival_s[node::2], seconds[node::2])[1]
        assert np.array_equal(both.end_s()[node::2], alone.end_s())
