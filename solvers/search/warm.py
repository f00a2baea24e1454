"""Compilation ahead of a run, so that no time limit has to pay for it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.workload import Workload
from solvers.incumbent import Incumbent
from solvers.search.rebuild import rebuild
from solvers.search.search import Search

BYTES = 2.0**20
OBJECTIVE = Objective(inference_response=1, training_response=1)


def smallest() -> Instance:
    """Return an instance that makes everything run once: a request and a training task."""
    shape = (1, 2, 1)
    costs = Costs(np.ones(shape), np.ones(shape), np.full(shape, BYTES), np.zeros((1, 1)))
    two = np.ones(2, dtype=np.int64)
    work = Workload(np.array([0, 1]), np.zeros(2), two, 8 * two, slo_s=np.full(2, 8.0))
    return Instance(Cluster(1, 1, np.full((1, 1), BYTES)), work, costs)


@lru_cache(maxsize=1)
def compile_search() -> None:
    """Load the compiled code of policies and annealing, or compile it; once per process."""
    rng, search = np.random.default_rng(0), Search(Incumbent(smallest(), OBJECTIVE, None))
    search.begin()
    rebuild(search, rng, rounds=1)
    search.cool(rng, plans=1, hot=1.0, cold=1.0)
