"""Taillard's permutation flow shops, generated from their published seeds.

E. Taillard, "Benchmarks for basic scheduling problems", EJOR 64(2), 278-285, 1993. The seeds are
those of the program that D. C. Mattfeld and R. J. M. Vaessens published for his instances
(``fsp_gen.c``, 1996). That they give the instances meant shows in his lower bounds, which
`machine_bound` reproduces (`tests/test_benchmarks_taillard.py`).
"""

from __future__ import annotations

import numpy as np

from instances.benchmarks.benchmark import MAKESPAN, Benchmark, first_seeds, inference_instance
from lemix_opt.checks import IntArray

_A, _M, _Q, _R = 16807, 2**31 - 1, 127773, 2836
SOURCE = "Taillard 1993, generated from the published seeds"
LONGEST = 99
"""Longest duration in time units; the shortest is 1."""

SEEDS: dict[tuple[int, int], tuple[int, ...]] = {
    (20, 5): (
        *(873654221, 379008056, 1866992158, 216771124, 495070989),
        *(402959317, 1369363414, 2021925980, 573109518, 88325120),
    ),
    (20, 10): (
        *(587595453, 1401007982, 873136276, 268827376, 1634173168),
        *(691823909, 73807235, 1273398721, 2065119309, 1672900551),
    ),
    (20, 20): (
        *(479340445, 268827376, 1958948863, 918272953, 555010963),
        *(2010851491, 1519833303, 1748670931, 1923497586, 1829909967),
    ),
    (50, 5): (
        *(1328042058, 200382020, 496319842, 1203030903, 1730708564),
        *(450926852, 1303135678, 1273398721, 587288402, 248421594),
    ),
}
"""Published seeds by (jobs, machines), in the order of the instances' numbers."""

_FIRST_NUMBER = {(20, 5): 1, (20, 10): 11, (20, 20): 21, (50, 5): 31}


def durations(jobs: int, machines: int, seed: int) -> IntArray:
    """Draw the durations of one flow shop, machine by machine.

    Parameters
    ----------
    jobs, machines : int
        Size.
    seed : int
        State of the generator before the first draw, between 1 and 2^31 − 2.

    Returns
    -------
    ndarray of int, shape (machines, jobs)
        Time units between 1 and 99, the same on every platform.
    """
    state = seed
    drawn = np.empty(machines * jobs, dtype=np.int64)
    for i in range(drawn.size):
        # Lehmer's generator 16807·x mod (2^31 − 1) after Schrage, as published.
        state = _A * (state % _Q) - _R * (state // _Q)
        state += _M if state < 0 else 0
        drawn[i] = 1 + int(state / _M * LONGEST)
    return drawn.reshape(machines, jobs)


def machine_bound(units: IntArray) -> int:
    """Return Taillard's lower bound on the makespan (1993, section 4), in time units.

    Every machine needs the work of all jobs, behind the shortest head and before the shortest tail
    of a job; and every job needs all its machines.

    Parameters
    ----------
    units : ndarray of int, shape (machines, jobs)
        Durations in time units.
    """
    until = np.cumsum(units, axis=0)
    heads = (until - units).min(axis=1)
    tails = (until[-1] - until).min(axis=1)
    return int(max((heads + units.sum(axis=1) + tails).max(), until[-1].max()))


def taillard(jobs: int, machines: int, seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return the flow shops of one size: one node, its stages as machines, requests only, FIFO.

    Parameters
    ----------
    jobs, machines : int
        A size out of `SEEDS`.
    seeds : int, optional
        The first so many of the ten published seeds; all when omitted.
    """
    size, published = f"{jobs}x{machines}", SEEDS[jobs, machines]
    first = _FIRST_NUMBER[jobs, machines]
    return tuple(
        Benchmark(
            f"ta{first + k:03d}",
            size,
            inference_instance(durations(jobs, machines, published[k]).T[None], fifo=True),
            MAKESPAN,
            SOURCE,
        )
        for k in first_seeds(seeds, len(published))
    )


def taillard_20x5(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return ta001 to ta010."""
    return taillard(20, 5, seeds)


def taillard_20x10(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return ta011 to ta020."""
    return taillard(20, 10, seeds)


def taillard_20x20(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return ta021 to ta030."""
    return taillard(20, 20, seeds)


def taillard_50x5(seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Return ta031 to ta040."""
    return taillard(50, 5, seeds)
