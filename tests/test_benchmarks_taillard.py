"""Taillard's flow shops against what he published: durations, lower bounds, optima."""

from __future__ import annotations

import numpy as np
import pytest

from instances.benchmarks.best_known import read_best_known
from instances.benchmarks.taillard import SEEDS, durations, machine_bound, taillard, taillard_20x5
from lemix_opt import simulate, validate
from lemix_opt.grid import on_grid
from solvers.registry import POLICIES

OPTIMA = (1278, 1359, 1081, 1293, 1235, 1195, 1234, 1206, 1230, 1108)
FIRST_ROW = (54, 83, 15, 71, 77, 36, 53, 38, 27, 87, 76, 91, 14, 29, 12, 77, 32, 87, 68, 94)
PUBLISHED_BOUNDS = {
    (20, 5): (1232, 1290, 1073, 1268, 1198, 1180, 1226, 1170, 1206, 1082),
    (20, 10): (1448, 1479, 1407, 1308, 1325, 1290, 1388, 1363, 1472, 1356),
    (20, 20): (1911, 1711, 1844, 1810, 1899, 1875, 1875, 1880, 1840, 1900),
    (50, 5): (2712, 2808, 2596, 2740, 2837, 2793, 2689, 2667, 2527, 2776),
}


def lehmer(seed: int, draws: int) -> list[int]:
    """The generator as it is defined, without Schrage's trick."""
    found = []
    for _ in range(draws):
        seed = 16807 * seed % (2**31 - 1)
        found.append(1 + 99 * seed // (2**31 - 1))
    return found


def makespan(units: np.ndarray, order: np.ndarray) -> int:
    """Completion of the last job by the textbook recurrence."""
    end = np.zeros(len(units) + 1, dtype=int)
    for job in order:
        for machine, row in enumerate(units, 1):
            end[machine] = max(end[machine], end[machine - 1]) + row[job]
    return int(end[-1])


def test_the_first_durations_are_the_published_ones() -> None:
    units = durations(20, 5, SEEDS[20, 5][0])
    assert units.shape == (5, 20)
    assert tuple(units[0]) == FIRST_ROW
    assert units[:, 0].tolist() == [54, 79, 16, 66, 58]


@pytest.mark.parametrize("size", SEEDS)
def test_seeds_give_the_published_lower_bounds(size: tuple[int, int]) -> None:
    drawn = [durations(*size, seed) for seed in SEEDS[size]]
    assert all(
        lehmer(s, d.size) == d.ravel().tolist() for s, d in zip(SEEDS[size], drawn, strict=True)
    )
    assert tuple(machine_bound(units) for units in drawn) == PUBLISHED_BOUNDS[size]


def test_no_sequence_beats_the_published_optimum() -> None:
    rng = np.random.default_rng(0)
    for seed, optimum in zip(SEEDS[20, 5], OPTIMA, strict=True):
        units = durations(20, 5, seed)
        assert machine_bound(units) <= optimum
        assert min(makespan(units, rng.permutation(20)) for _ in range(100)) >= optimum


@pytest.mark.parametrize("size", SEEDS)
def test_the_table_holds_optima_between_bound_and_any_sequence(size: tuple[int, int]) -> None:
    table = read_best_known()
    for benchmark, bound in zip(taillard(*size), PUBLISHED_BOUNDS[size], strict=True):
        best = table.of(benchmark)["makespan"]
        units = durations(*size, SEEDS[size][int(benchmark.name[2:]) % 10 - 1])
        assert best.lower is not None
        assert best.upper is not None
        assert best.lower.value_s == best.upper.value_s
        optimum = round(1000 * best.upper.value_s)
        assert bound <= optimum <= makespan(units, np.argsort(units[0] - units[-1]))
    if size == (20, 5):
        found = [table.of(b)["makespan"].upper for b in taillard_20x5()]
        assert tuple(round(1000 * m.value_s) for m in found if m) == OPTIMA


def test_an_instance_is_a_permutation_flow_shop() -> None:
    benchmark = taillard_20x5(1)[0]
    instance = benchmark.instance
    assert (benchmark.name, instance.fifo, instance.cluster.nodes) == ("ta001", True, 1)
    assert instance.workload.is_inference.all()
    assert on_grid(instance.costs.forward_s, instance.tick_s)
    schedule = simulate(instance, POLICIES.create("mix-rr"))
    assert validate(instance, schedule) == []
    units = durations(20, 5, SEEDS[20, 5][0])
    ops = schedule.operations
    first = ops.stage == 0
    order = ops.task[first][np.argsort(ops.start_s[first])]
    assert round(1000 * float(ops.end_s.max())) == makespan(units, order)
