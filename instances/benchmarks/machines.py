"""Parallel machines: P||Cmax, P|r_j|Cmax and R||Cmax, from fixed seeds.

The classes are published, the instances are not: they are drawn here, with numpy's PCG64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from instances.benchmarks.benchmark import MAKESPAN, Benchmark, first_seeds, inference_instance
from lemix_opt.checks import IntArray, choice, whole
from lemix_opt.instance import Instance

SEEDS = 5
"""Seeds per cell."""

CLASSES = ("uniform", "job", "machine")
IDENTICAL_SIZES = ((20, 4), (50, 4), (100, 4))
RELEASED_SIZES = ((20, 4), (100, 4))
UNRELATED_SIZES = ((20, 4), (100, 4))


def identical(jobs: int, machines: int, seed: int) -> Instance:
    """P||Cmax with p_j ~ U[1, 100].

    One of the classes of P. M. França, M. Gendreau, G. Laporte and F. M. Müller, "A composite
    heuristic for the identical parallel machine scheduling problem with minimum makespan
    objective", Computers & Operations Research 21, 205-210, 1994.

    Parameters
    ----------
    jobs, machines : int
        Size; machines are nodes of one stage.
    seed : int
        Seed of the draws.
    """
    units = _rng(jobs, machines, seed).integers(1, 101, jobs)
    return inference_instance(units[None, :, None], node_class=[0] * machines)


def released(jobs: int, machines: int, seed: int) -> Instance:
    """P|r_j|Cmax with p_j ~ U[1, 100] and r_j ~ U[0, Σp / machines], sorted.

    The durations are those of `identical`'s class; the releases are a choice made here: spread
    over the time that the work takes without gaps, they neither leave machines idle for long nor
    stop binding. Jobs are numbered by release, as an instance needs.

    Parameters
    ----------
    jobs, machines : int
        Size.
    seed : int
        Seed of the draws.
    """
    rng = _rng(jobs, machines, seed)
    units = rng.integers(1, 101, jobs)
    release = np.sort(rng.integers(0, int(units.sum()) // machines + 1, jobs))
    return inference_instance(
        units[None, :, None], node_class=[0] * machines, release_units=release
    )


def unrelated(jobs: int, machines: int, seed: int, kind: str = "uniform") -> Instance:
    """R||Cmax; every machine is a node of its own class.

    Classes of L. Fanjul-Peyro and R. Ruiz, "Iterated greedy local search methods for unrelated
    parallel machine scheduling", EJOR 207(1), 55-69, 2010: p_ij ~ U[1, 100]; correlated by job,
    p_ij = b_j + d_ij; correlated by machine, p_ij = a_i + c_ij; a, b ~ U[1, 100], c, d ~ U[1, 20].

    Parameters
    ----------
    jobs, machines : int
        Size.
    seed : int
        Seed of the draws.
    kind : {"uniform", "job", "machine"}, default "uniform"
        Class of the durations.
    """
    choice("kind", kind, CLASSES)
    rng = _rng(jobs, machines, seed)
    units: IntArray
    if kind == "uniform":
        units = rng.integers(1, 101, (machines, jobs))
    else:
        shape = (1, jobs) if kind == "job" else (machines, 1)
        units = rng.integers(1, 101, shape) + rng.integers(1, 21, (machines, jobs))
    return inference_instance(units[:, :, None], node_class=range(machines))


def p_cmax(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return the suite of P||Cmax: 20x4, 50x4 and 100x4 jobs and machines."""
    return _suite("p-cmax", IDENTICAL_SIZES, seeds, identical)


def p_rj_cmax(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return the suite of P|r_j|Cmax: 20x4 and 100x4 jobs and machines."""
    return _suite("p-rj-cmax", RELEASED_SIZES, seeds, released)


def r_cmax(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return the suite of R||Cmax: three classes of durations, 20x4 and 100x4."""
    found: list[Benchmark] = []
    for kind in CLASSES:

        def build(jobs: int, machines: int, seed: int, kind: str = kind) -> Instance:
            return unrelated(jobs, machines, seed, kind)

        found += _suite("r-cmax", UNRELATED_SIZES, seeds, build, f"-{kind}")
    return tuple(found)


def _suite(
    name: str,
    sizes: Sequence[tuple[int, int]],
    seeds: int | None,
    build: Callable[[int, int, int], Instance],
    kind: str = "",
) -> tuple[Benchmark, ...]:
    return tuple(
        Benchmark(
            f"{name}-{jobs}x{machines}{kind}-{seed}",
            f"{jobs}x{machines}{kind}",
            build(jobs, machines, seed),
            MAKESPAN,
            "synthetic, drawn here",
        )
        for jobs, machines in sizes
        for seed in first_seeds(seeds, SEEDS)
    )


def _rng(jobs: int, machines: int, seed: int) -> np.random.Generator:
    sizes = (("jobs", jobs, 1), ("machines", machines, 1), ("seed", seed, 0))
    return np.random.default_rng([whole(name, value, minimum=low) for name, value, low in sizes])
