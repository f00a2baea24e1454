"""Rebuilding: the best schedule is put together again, in sequences near its own."""

from __future__ import annotations

import math

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.interrupt import stop_if_interrupted
from solvers.search.beam import WIDTH, grown
from solvers.search.search import Search

ROUNDS = 200
AHEAD, LARGE, NOISE = 6.0, 20.0, 3.0
"""How far all training goes ahead or behind (a deviation), how far large training tasks go ahead,
by what they take beyond the mean, and by how much single tasks move (a deviation) at most; in mean
lengths of a task."""


def rebuild(
    search: Search,
    rng: np.random.Generator,
    *,
    until_s: float = math.inf,
    plans: float = math.inf,
    rounds: int = ROUNDS,
) -> None:
    """Try beam searches over sequences around that of the best plan.

    Parameters
    ----------
    until_s, plans : float
        Time of the run and number of plans by which it ends at the latest; a beam search counts
        as the plans of its width.
    rounds : int, default 200
        Beam searches.
    """
    search.follow_best()
    if search.plan is None or search.instance.tasks == 0:
        return
    first = search.starts()
    rounds = int(min(rounds, plans / WIDTH))
    for turn in range(rounds):
        stop_if_interrupted()
        if search.halt.is_set() or search.best.proven or search.best.elapsed_s >= until_s:
            return
        plan = grown(search.work, search.allowed, _sequence(search, first, turn, rng))
        if plan is not None and search.try_plan(plan):
            first = search.starts()


def _sequence(search: Search, first: FloatArray, turn: int, rng: np.random.Generator) -> IntArray:
    """Return the tasks by their first starts, with training moved ahead or behind."""
    training = search.instance.workload.is_training
    length = search.work.after[:, :, 0].min(axis=0).astype(np.float64)
    mean = float(length.mean())
    key = first.copy()
    key[training] += rng.normal(0.0, AHEAD) * mean
    if turn % 3 == 1:
        beyond = length[training] - length[training].mean() if training.any() else 0.0
        key[training] -= rng.uniform(0.0, LARGE) * beyond
    elif turn % 3 == 2:
        key += rng.normal(0.0, rng.uniform(0.0, NOISE) * mean, key.size)
    if search.instance.release_mode != "open":
        key[training] = np.maximum.accumulate(key[training])
    return np.argsort(key, kind="stable")
