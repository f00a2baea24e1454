"""Lengths of tasks: pools of query and reference lengths, and how batches are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import IntArray, choice, floats, integers, whole
from lemix_opt.errors import FieldError

ORDERS = ("random", "ascending", "descending", "bursty")


@dataclass(frozen=True, eq=False)
class LengthPool:
    """Samples that tasks are made of; all lengths in tokens.

    Parameters
    ----------
    query, reference : array_like of int, shape (P,)
        Tokens of a query and of its answer.
    source : str
        Where the lengths come from; a generated pool says ``synthetic``.
    """

    query: IntArray
    reference: IntArray
    source: str

    def __post_init__(self) -> None:
        query = integers("query", self.query, minimum=1)
        object.__setattr__(self, "query", query)
        object.__setattr__(
            self, "reference", integers("reference", self.reference, query.shape, minimum=0)
        )


def lognormal_pool(rng: np.random.Generator, size: int = 5756) -> LengthPool:
    """Draw a synthetic pool with the mean and deviation of the lengths the LeMix paper uses.

    Query 94.8 ± 103.1 tokens and reference 40.5 ± 38.9 words (Anthropic hh-rlhf harmless-base,
    test split, as read from pejoule/LeMix); lengths are independent and log-normal here.
    """

    def draw(mean: float, deviation: float, low: int) -> IntArray:
        spread = np.log1p((deviation / mean) ** 2)
        drawn = rng.lognormal(np.log(mean) - spread / 2, np.sqrt(spread), size)
        return np.maximum(np.rint(drawn), low).astype(np.int64)

    size = whole("size", size, minimum=1)
    return LengthPool(
        draw(94.8, 103.1, 1), draw(40.5, 38.9, 0), "synthetic: log-normal, hh-rlhf's moments"
    )


def _near(pool: LengthPool, wanted: IntArray) -> IntArray:
    """Take for every wanted query length the nearest sample that is still free."""
    order = np.argsort(pool.query, kind="stable")
    lengths = pool.query[order]
    taken = np.zeros(lengths.size, dtype=bool)
    chosen = np.empty(wanted.size, dtype=np.int64)
    for row, length in enumerate(wanted.tolist()):
        at = int(np.searchsorted(lengths, length))
        low = at - 1
        while low >= 0 and taken[low]:
            low -= 1
        high = at
        while high < lengths.size and taken[high]:
            high += 1
        nearer = high < lengths.size and (low < 0 or lengths[high] - length < length - lengths[low])
        found = high if nearer else low
        taken[found] = True
        chosen[row] = order[found]
    return chosen


def draw_lengths(
    pool: LengthPool,
    tasks: int,
    batch: int,
    rng: np.random.Generator,
    *,
    order: str = "random",
    heterogeneity: float | None = None,
) -> IntArray:
    """Draw the padded length of every task, shape (T,), in tokens.

    A task is a batch: its length is its longest query plus its longest reference. Samples are
    drawn without replacement (pejoule/LeMix, a87f280).

    Parameters
    ----------
    pool : LengthPool
        At least ``tasks * batch`` samples.
    tasks, batch : int
        Number of tasks and rows of each.
    rng : numpy.random.Generator
        Source of randomness.
    order : {"random", "ascending", "descending", "bursty"}, default "random"
        Order of the tasks by longest query; ``bursty`` alternates one of the shorter half and one
        of the longer half.
    heterogeneity : float, optional
        Deviation in tokens of a normal distribution around the pool's mean query length; each
        draw takes the free sample of nearest length. Uniform sampling when omitted.
    """
    choice("order", order, ORDERS)
    needed = whole("tasks", tasks, minimum=0) * whole("batch", batch, minimum=1)
    if needed > pool.query.size:
        raise FieldError(
            f"{needed} samples for {tasks} tasks",
            where="tasks",
            expected=f"at most the {pool.query.size} samples of the pool",
        )
    if heterogeneity is None:
        picked = rng.choice(pool.query.size, needed, replace=False)
    else:
        deviation = float(floats("heterogeneity", heterogeneity, (), minimum=0))
        drawn = rng.normal(pool.query.mean(), deviation, needed)
        picked = rng.permutation(_near(pool, np.rint(drawn).astype(np.int64)))
    query = pool.query[picked].reshape(tasks, batch).max(axis=1)
    total = query + pool.reference[picked].reshape(tasks, batch).max(axis=1)
    if order == "random":
        return np.asarray(total)
    rank = np.argsort(query, kind="stable")
    if order == "descending":
        rank = rank[::-1]
    elif order == "bursty":
        half = (tasks + 1) // 2
        mixed = np.empty(tasks, dtype=np.int64)
        mixed[::2], mixed[1::2] = rank[:half], rank[half:]
        rank = mixed
    return np.asarray(total[rank])
