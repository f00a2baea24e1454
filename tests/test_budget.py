"""`budget`: training goes only where it leaves requests their SLO, and runs in the end."""

from __future__ import annotations

import numpy as np
import pytest

from lemix_opt import Cluster, Costs, Instance, Workload
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError
from lemix_opt.evaluation import evaluate
from lemix_opt.schedule import DONE
from solvers.online.budget import Budget
from solvers.registry import POLICIES


def mixed(load: float, share: float, seed: int = 0, mode: str = "async") -> Instance:
    rng = np.random.default_rng(seed)
    tasks, nodes, stages = 400, 4, 2
    kind = (rng.random(tasks) < share).astype(int)
    forward = np.repeat(rng.uniform(0.05, 0.2, (1, tasks, 1)), stages, axis=2)
    backward = 2 * forward * kind[None, :, None]
    span_s = (forward + backward).mean(axis=2).sum() / (nodes * load)
    release_s = np.sort(rng.uniform(0, span_s, tasks))
    work = Workload(kind, release_s, 1, 8)
    costs = Costs(forward, backward, 0.0, 0.0)
    return Instance(Cluster(nodes, stages, 1.0), work, costs, release_mode=mode)


@pytest.mark.parametrize("seed", range(3))
def test_requests_keep_their_slo_where_shortest_response_loses_it(seed: int) -> None:
    instance = mixed(2.0, 0.5, seed, mode="open")
    careful = simulate(instance, Budget())
    greedy = simulate(instance, POLICIES.create("shortest-response"))
    assert set(careful.end_state.tolist()) == {DONE}
    kept, lost = (evaluate(instance, s).slo_attainment_5x for s in (careful, greedy))
    assert kept == 1.0
    assert lost < 0.3


def test_a_larger_budget_trades_answers_in_time_for_training() -> None:
    instance = mixed(1.5, 0.5, mode="open")
    runs = [simulate(instance, Budget(share=share)) for share in (0.5, 2.0, 1000.0)]
    kept = [evaluate(instance, run).slo_attainment_5x for run in runs]
    trained_s = [run.end_s()[instance.workload.is_training].mean() for run in runs]
    assert kept[0] > kept[1] > kept[2]
    assert trained_s[0] > trained_s[1] > trained_s[2]


def test_without_limit_it_is_shortest_response() -> None:
    instance = mixed(1.5, 0.5)
    unlimited = simulate(instance, Budget(slo_units=1e9))
    assert unlimited == simulate(instance, POLICIES.create("shortest-response"))


@pytest.mark.parametrize("mode", ["async", "sync", "open"])
def test_training_runs_in_the_end_without_any_budget(mode: str) -> None:
    schedule = simulate(mixed(3.0, 0.5, mode=mode), Budget(share=1e-9))
    assert set(schedule.end_state.tolist()) == {DONE}


@pytest.mark.parametrize(("name", "value"), [("share", 0.0), ("window", 0), ("slo_units", -1.0)])
def test_bad_parameters_are_named(name: str, value: float) -> None:
    with pytest.raises(FieldError, match=name):
        Budget(**{name: value})  # type: ignore[arg-type]
