"""No two members of a clique fit on one stage of one node at once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from solvers.bounds.cliques import cliques

SOME = st.integers(2, 7)


@given(st.integers(0, 2**32 - 1), SOME, st.integers(0, 12))
def test_members_exclude_each_other(seed: int, tasks: int, room: int) -> None:
    rng = np.random.default_rng(seed)
    held = rng.integers(0, 13, (1, tasks, 1))
    training = rng.random(tasks) < 0.6
    runs, holds = cliques(held, np.array([[room]]), training)
    for run, hold in zip(runs[:, 0, :, 0], holds[:, 0, :, 0], strict=True):
        assert not np.any(run * hold)
        for i, j in combinations(np.flatnonzero(run + hold), 2):
            # Requests hold memory only while they compute.
            computing = (run[i] or not training[i]) and (run[j] or not training[j])
            assert computing or held[0, i, 0] + held[0, j, 0] > room


def test_what_fills_a_node_keeps_requests_away() -> None:
    """Memory 10: training of 8 leaves 2, so requests of 3 and 4 wait for it and each other."""
    held = np.array([8, 3, 4, 1, 2]).reshape(1, 5, 1)
    training = np.array([True, False, False, False, True])
    runs, holds = cliques(held, np.array([[10]]), training)
    assert holds[:, 0, :, 0].tolist() == [[1, 1, 1, 0, 0]]
    assert not runs.any()
