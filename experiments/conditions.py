"""Problems of the LeMix studies: one cell of the paper's grid, with synthetic times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from instances import generate, load
from instances.lengths import LengthPool, lognormal_pool
from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import DatasetError
from lemix_opt.instance import Instance
from lemix_opt.trace import Trace

LENGTHS = "hh_rlhf_test_lengths"
TOKENS_PER_WORD = 1.3
"""Assumed, see the data's description."""
SHAPE = "llama-13b-a100"
"""Packaged calibration whose shape (constant, per token, per squared length) times have."""
BACKWARD_RATIO = 1.99
"""Backward / forward: Sailor, LLAMA-3-8 on A100-40, 3 points."""
PUBLISHED_THRESHOLD = 0.8
"""Share of a GPU's memory in use up to which the published programs start an operation (GPT)."""


@dataclass(frozen=True)
class Condition:
    """One cell of a grid and one seed.

    Parameters
    ----------
    rate_per_s : float
        Requests per second (Poisson).
    training_share : float
        Training tasks / all tasks.
    forward_s : float
        Mean seconds of a whole model's forward, over the lengths of the pool.
    seed : int
        Seed of kinds, arrivals, lengths and noise; the same for all policies, which pairs them.
    noise : float, default 0
        Coefficient of variation of actual / predicted seconds of an operation (log-normal, mean
        1). 0: predictions come true.
    room : float, default 0
        Memory of a GPU in mean activations of a training task, at least what the longest task
        needs under the published threshold. 0: memory plays no part.
    tasks, nodes, stages : int, default 334, 4, 2
        Size, as in the paper.
    """

    rate_per_s: float
    training_share: float
    forward_s: float
    seed: int
    noise: float = 0.0
    room: float = 0.0
    tasks: int = 334
    nodes: int = 4
    stages: int = 2

    def problem(self) -> Trace:
        """Return the instance and its actual costs, the same in any process."""
        pool = length_pool()
        work = generate(
            self.tasks,
            training_share=self.training_share,
            rate_per_s=self.rate_per_s,
            pool=pool,
            seed=self.seed,
        )
        scale = self.forward_s / float(_shape(pool.query + pool.reference).mean())
        forward = np.repeat(
            scale / self.stages * _shape(work.prompt_tokens)[None, :, None], self.stages, axis=2
        )
        backward = BACKWARD_RATIO * forward * work.is_training[None, :, None]
        held, memory_bytes = np.zeros_like(forward), 1.0
        rules: dict[str, Any] = {}
        if self.room:
            # Activations in proportion to tokens; only their size beside the memory matters.
            held += work.prompt_tokens[None, :, None]
            mean = float(work.prompt_tokens[work.is_training].mean())
            memory_bytes = max(self.room * mean, float(held.max()) / PUBLISHED_THRESHOLD)
            rules = {
                "memory_rule": "reference_threshold",
                "memory_fraction": PUBLISHED_THRESHOLD,
            }
        costs = Costs(forward, backward, held, 0.0)  # type: ignore[arg-type]
        cluster = Cluster(self.nodes, self.stages, memory_bytes)  # type: ignore[arg-type]
        instance = Instance(cluster, work, costs, **rules)
        actual = costs
        if self.noise:
            rng = np.random.default_rng([self.seed, 1])
            spread = np.log1p(self.noise**2)
            drawn = np.exp(rng.normal(-spread / 2, np.sqrt(spread), (2, *forward.shape)))
            actual = Costs(forward * drawn[0], backward * drawn[1], held, 0.0)  # type: ignore[arg-type]
        said = f"synthetic: shape of {SHAPE}, scaled; lengths {pool.source}"
        return Trace(instance, actual, "synthetic", said)


@lru_cache(maxsize=1)
def length_pool() -> LengthPool:
    """Return the paper's lengths where the data are, else a log-normal pool of their moments."""
    try:
        words = load(LENGTHS)
    except DatasetError:
        return lognormal_pool(np.random.default_rng(0))
    query = np.ceil(TOKENS_PER_WORD * words["query_words"]).astype(np.int64)
    reference = np.ceil(TOKENS_PER_WORD * words["reference_words"]).astype(np.int64)
    source = f"{LENGTHS} ({words.source}), {TOKENS_PER_WORD} tokens per word assumed"
    return LengthPool(np.maximum(query, 1), reference, source)


def _shape(tokens: IntArray) -> FloatArray:
    from predictors import load_calibration

    model = load_calibration(SHAPE).time_model()
    rows = np.column_stack([np.ones(len(tokens)), tokens]).astype(np.float64)
    return np.asarray(model.predict(rows))
