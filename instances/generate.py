"""Workloads: generated arrivals and lengths, and stretches of a recorded trace."""

from __future__ import annotations

import numpy as np

from instances.lengths import LengthPool, draw_lengths, lognormal_pool
from lemix_opt.checks import FloatArray, IntArray, choice, floats, integers, whole
from lemix_opt.errors import FieldError
from lemix_opt.workload import INFERENCE, TRAINING, Workload

ARRIVALS = ("poisson", "all", "alternating")
TRAINING_RELEASES = ("start", "previous_request")
ALTERNATING_RATES = (6, 12, 29, 15, 8, 20, 11, 6, 24, 19, 30, 14)
"""Rates per second of the alternating workload (pejoule/LeMix, a87f280)."""


def arrival_times(
    kind: str, requests: int, rate_per_s: float, rng: np.random.Generator
) -> FloatArray:
    """Draw arrival times in seconds, shape (requests,).

    ``poisson`` has exponential gaps, the first one before the first request; ``all`` arrives at
    once; ``alternating`` runs through `ALTERNATING_RATES` in segments of equal duration and
    ignores `rate_per_s`. Requests left over by rounding go one each to the highest rates.
    """
    choice("arrivals", kind, ARRIVALS)
    requests = whole("requests", requests, minimum=0)
    if kind == "all":
        return np.zeros(requests)
    if kind == "poisson":
        rate = float(floats("rate_per_s", rate_per_s, (), above=0))
        return np.asarray(np.cumsum(rng.exponential(1 / rate, requests)))
    rates = np.array(ALTERNATING_RATES, dtype=np.float64)
    sizes = np.floor(requests * rates / rates.sum()).astype(np.int64)
    sizes[np.argsort(-rates, kind="stable")[: requests - sizes.sum()]] += 1
    return np.asarray(np.cumsum(rng.exponential(1.0, requests) / np.repeat(rates, sizes)))


def _kinds(tasks: int, training_share: float, rng: np.random.Generator) -> IntArray:
    tasks = whole("tasks", tasks, minimum=0)
    share = float(floats("training_share", training_share, (), minimum=0, maximum=1))
    kind = np.full(tasks, INFERENCE)
    kind[rng.choice(tasks, round(tasks * share), replace=False)] = TRAINING
    return kind


def _releases(kind: IntArray, arrival_s: FloatArray, training_release: str) -> FloatArray:
    choice("training_release", training_release, TRAINING_RELEASES)
    serves = kind == INFERENCE
    if training_release == "start":
        release_s = np.zeros(kind.size)
        release_s[serves] = arrival_s
        return release_s
    before = np.cumsum(serves)
    return np.asarray(np.concatenate([[0.0], arrival_s])[before])


def generate(
    tasks: int,
    *,
    training_share: float = 0.5,
    arrivals: str = "poisson",
    rate_per_s: float = 10.0,
    batch: int = 1,
    pool: LengthPool | None = None,
    length_order: str = "random",
    length_heterogeneity: float | None = None,
    training_release: str = "start",
    slo_s: float = np.inf,
    mean_output_tokens: float = 0.0,
    seed: int = 0,
) -> Workload:
    """Generate a synthetic workload.

    Parameters
    ----------
    tasks : int
        Number of tasks T, training ones included.
    training_share : float, default 0.5
        Training tasks / all tasks; which ids train is drawn uniformly.
    arrivals : {"poisson", "all", "alternating"}, default "poisson"
        Arrival process of the inference tasks, see `arrival_times`.
    rate_per_s : float, default 10
        Requests per second of ``poisson``.
    batch : int, default 1
        Rows of every task.
    pool : LengthPool, optional
        Lengths to draw from; `lognormal_pool` when omitted.
    length_order, length_heterogeneity
        See `draw_lengths`.
    training_release : {"start", "previous_request"}, default "start"
        Own release of training tasks: 0, as in the LeMix paper's closed loop, or that of the
        inference task before them.
    slo_s : float, default infinity
        SLO of every inference task in seconds.
    mean_output_tokens : float, default 0
        Mean of the tokens that requests generate, drawn from a geometric distribution, which is an
        assumption; 0 for forward passes only, else at least 1.
    seed : int, default 0
        Seed of all draws.

    Returns
    -------
    Workload
        The same for the same arguments, in any process.
    """
    rng = np.random.default_rng(whole("seed", seed, minimum=0))
    kind = _kinds(tasks, training_share, rng)
    arrival_s = arrival_times(arrivals, int(np.sum(kind == INFERENCE)), rate_per_s, rng)
    pool = lognormal_pool(rng, max(5756, tasks * batch)) if pool is None else pool
    lengths = draw_lengths(
        pool, tasks, batch, rng, order=length_order, heterogeneity=length_heterogeneity
    )
    mean = float(floats("mean_output_tokens", mean_output_tokens, (), minimum=0))
    output = np.zeros(tasks, dtype=np.int64)
    if mean:
        floats("mean_output_tokens", mean, (), minimum=1)
        output = np.where(kind == INFERENCE, rng.geometric(1 / mean, tasks), 0)
    return Workload(
        kind,
        _releases(kind, arrival_s, training_release),
        np.full(tasks, batch),
        lengths,
        output,
        slo_s=np.where(kind == INFERENCE, slo_s, np.inf),
    )


def stretch(
    arrival_s: FloatArray,
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    *,
    tasks: int,
    training_share: float,
    first: int = 0,
    seed: int = 0,
    origin_ns: int = 0,
) -> Workload:
    """Take consecutive requests of a trace and interleave training tasks.

    Parameters
    ----------
    arrival_s : ndarray, shape (R,)
        Arrivals in seconds, non-decreasing.
    prompt_tokens, output_tokens : ndarray of int, shape (R,)
        Lengths of the requests.
    tasks : int
        Tasks wanted, training ones included.
    training_share : float
        Training tasks / all tasks. Their ids are drawn, their lengths are drawn from the whole
        trace, and their own release is that of the request before them.
    first : int, default 0
        First request taken.
    seed : int, default 0
        Seed of all draws.
    origin_ns : int, default 0
        Nanoseconds on the trace's clock at which `arrival_s` is 0.

    Returns
    -------
    Workload
        Requests in the trace's order with its gaps, the first one at 0 s; batches of one row.

    Raises
    ------
    FieldError
        If the trace is too short.
    """
    rng = np.random.default_rng(whole("seed", seed, minimum=0))
    kind = _kinds(tasks, training_share, rng)
    serves = kind == INFERENCE
    wanted = int(serves.sum())
    end = whole("first", first, minimum=0) + wanted
    if end > len(arrival_s):
        raise FieldError(
            f"{wanted} requests from number {first} on",
            where="tasks",
            expected=f"at most the {len(arrival_s)} requests of the trace",
        )
    at_s = floats("arrival_s", arrival_s)[first:end]
    prompts = integers("prompt_tokens", prompt_tokens, (len(arrival_s),), minimum=1)
    outputs = integers("output_tokens", output_tokens, (len(arrival_s),), minimum=0)
    lengths = rng.choice(prompts, kind.size)
    lengths[serves] = prompts[first:end]
    generated = np.zeros(kind.size, dtype=np.int64)
    generated[serves] = outputs[first:end]
    shifted = at_s - at_s[0] if wanted else at_s
    release_s = _releases(kind, shifted, "previous_request")
    origin_ns += round(float(at_s[0]) * 1e9) if wanted else 0
    return Workload(kind, release_s, np.ones_like(kind), lengths, generated, origin_ns=origin_ns)
