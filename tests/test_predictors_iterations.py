"""Times of iterations: exact on exact data, and the packaged figures are those of the data."""

from __future__ import annotations

import numpy as np
import pytest
from measured_data import DATA, needs_data

from experiments.profiles import read_iterations
from lemix_opt import Cluster, Generation, Instance, evaluate, simulate, validate
from lemix_opt.errors import UnknownNameError
from lemix_opt.workload import Workload
from predictors.iterations import (
    IterationTimeModel,
    fit_iterations,
    iteration_calibrations,
    load_iterations,
    serving_costs,
)
from predictors.sharing import scaled_costs
from solvers.registry import POLICIES

COEFFICIENTS = (0.01, 1e-4, 2e-8, 1e-4, 3e-7)


def runs() -> tuple[np.ndarray, np.ndarray]:
    grid = [(b, n, p) for b in (1, 4, 16) for n in (32, 128, 512) for p in (0, 1)]
    X = np.array(grid, dtype=float)
    base, token, pair, decode, context = COEFFICIENTS
    rows, length, phase = X.T
    prefill = token * rows * length + pair * rows * length**2
    step = decode * rows + context * rows * length
    return X, base + np.where(phase, step, prefill)


def test_a_linear_truth_is_found() -> None:
    X, seconds = runs()
    model = IterationTimeModel().fit(X, seconds)
    assert model.coef_ == pytest.approx(COEFFICIENTS, rel=1e-6)
    assert model.predict(X) == pytest.approx(seconds)
    assert model.residual_std_ == pytest.approx(0, abs=1e-6)


def test_costs_add_up_over_the_stages() -> None:
    X, seconds = runs()
    fitted = fit_iterations(
        "n", X, seconds, model="llama-7b", gpu="g", gpus=1, source="s", sha256="0"
    )
    assert fitted.mape_pct["decode, random fifth"] == pytest.approx(0, abs=0.01)
    for stages in (1, 3):
        costs = fitted.costs(stages)
        assert costs.base_s.shape == (1, stages)
        assert costs.seconds(0, 4 * 128, 4 * 128**2).sum() == pytest.approx(
            seconds[(X == (4, 128, 0)).all(axis=1)][0]
        )
        assert costs.kv_bytes_per_token.sum() == pytest.approx(4 * 32 * 4096)


def test_a_slow_class_takes_longer_and_holds_as_much() -> None:
    workload = Workload([0], [0.0], 1, [100], [5])
    costs = serving_costs(workload, load_iterations("llama-7b-a100"), stages=2)
    slow = scaled_costs(costs, np.array([1.0, 1.5])).iteration
    assert slow is not None
    assert costs.iteration is not None
    assert slow.seconds([0, 1], 7, 49, 3, 99) == pytest.approx(
        costs.iteration.seconds([0, 0], 7, 49, 3, 99) * [[1.0], [1.5]]
    )
    assert slow.kv_bytes_per_token[1].tolist() == costs.iteration.kv_bytes_per_token[0].tolist()


@pytest.mark.parametrize("stages", [1, 4])
def test_costs_of_requests_and_training_run(stages: int) -> None:
    kind, output = np.array([0, 1, 0, 0]), np.array([40, 0, 3, 200])
    workload = Workload(kind, np.arange(4) * 0.1, 1, [100, 200, 300, 500], output)
    costs = serving_costs(workload, load_iterations("llama-7b-a100"), stages=stages)
    instance = Instance(Cluster(2, stages, 80 * 2**30), workload, costs, generation=Generation())
    schedule = simulate(instance, POLICIES.create("jsq"))
    assert validate(instance, schedule) == []
    # A request of three tokens alone: its prefill, and two decodes of little more than the base.
    alone_s = costs.iteration.alone_s(0, 300, 3)
    assert alone_s == pytest.approx(costs.forward_s[0, 2].sum() + 2 * 0.0107, rel=0.03)
    score = evaluate(instance, schedule)
    assert (score.generated_tokens, score.training_done) == (243, 1)


@needs_data
@pytest.mark.parametrize("name", sorted(iteration_calibrations()))
def test_packaged_calibrations_come_from_the_data(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    said = load_iterations(name)
    X, seconds, sha256 = read_iterations(said.model, said.gpus)
    again = fit_iterations(
        name,
        X,
        seconds,
        model=said.model,
        gpu=said.gpu,
        gpus=said.gpus,
        source=said.source,
        sha256=sha256,
    )
    assert (again.rows, again.sha256) == (said.rows, said.sha256)
    assert again.mape_pct == pytest.approx(said.mape_pct, abs=0.02)
    costs, packaged = again.costs(1), said.costs(1)
    for part in ("base_s", "per_prefill_pair_s", "per_decode_s", "per_context_token_s"):
        assert getattr(costs, part) == pytest.approx(getattr(packaged, part), rel=1e-4)
    assert said.mape_pct["decode, random fifth"] < 5
    assert said.mape_pct["prefill, random fifth"] < 12


def test_an_unknown_calibration_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'llama-13b-a100'"):
        load_iterations("lama-13b-a100")
