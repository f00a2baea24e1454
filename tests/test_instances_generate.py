"""Generated workloads and stretches of a trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instances.generate import ALTERNATING_RATES, arrival_times, generate, stretch
from instances.lengths import LengthPool, draw_lengths, lognormal_pool
from lemix_opt.errors import FieldError


def test_poisson_arrivals_have_the_asked_rate() -> None:
    gaps = np.diff(arrival_times("poisson", 20_000, 10.0, np.random.default_rng(1)))
    assert gaps.mean() == pytest.approx(0.1, rel=0.03)
    assert gaps.std() == pytest.approx(0.1, rel=0.03)


def test_alternating_segments_last_equally_long() -> None:
    rates = np.array(ALTERNATING_RATES)
    arrival_s = arrival_times("alternating", 100 * int(rates.sum()), 1.0, np.random.default_rng(1))
    ends = arrival_s[np.cumsum(100 * rates) - 1]
    assert np.diff(ends, prepend=0) == pytest.approx(100, rel=0.15)


@given(st.integers(0, 300))
def test_alternating_places_every_request(requests: int) -> None:
    arrival_s = arrival_times("alternating", requests, 1.0, np.random.default_rng(0))
    assert arrival_s.shape == (requests,)
    assert np.all(np.diff(arrival_s) >= 0)


@given(st.integers(0, 60), st.floats(0, 1), st.integers(0, 5))
def test_the_training_share_and_the_seed_are_kept(tasks: int, share: float, seed: int) -> None:
    work = generate(tasks, training_share=share, seed=seed)
    assert int(work.is_training.sum()) == round(tasks * share)
    assert work == generate(tasks, training_share=share, seed=seed)


def test_only_requests_generate_and_nothing_else_changes() -> None:
    silent = generate(4000, training_share=0.25, seed=2)
    work = generate(4000, training_share=0.25, seed=2, mean_output_tokens=30)
    serves = work.is_inference
    assert not silent.output_tokens.any()
    assert not work.output_tokens[~serves].any()
    assert work.output_tokens[serves].min() >= 1
    assert work.output_tokens[serves].mean() == pytest.approx(30, rel=0.05)
    assert np.array_equal(work.release_s, silent.release_s)
    assert np.array_equal(work.prompt_tokens, silent.prompt_tokens)
    with pytest.raises(FieldError, match="mean_output_tokens"):
        generate(1, mean_output_tokens=0.5)


def test_a_synthetic_pool_has_the_published_moments() -> None:
    pool = lognormal_pool(np.random.default_rng(0), 200_000)
    assert pool.query.mean() == pytest.approx(94.8, rel=0.02)
    assert pool.query.std() == pytest.approx(103.1, rel=0.05)
    assert pool.source.startswith("synthetic")


def test_a_batch_is_as_long_as_its_longest_parts() -> None:
    pool = LengthPool([5, 9, 2], [1, 1, 30], "hand-made")  # type: ignore[arg-type]
    assert draw_lengths(pool, 1, 3, np.random.default_rng(0)).tolist() == [39]
    with pytest.raises(FieldError, match="at most the 3 samples"):
        draw_lengths(pool, 2, 2, np.random.default_rng(0))


def test_heterogeneity_takes_each_sample_once_and_the_nearest_first() -> None:
    pool = LengthPool(np.arange(1, 102), np.zeros(101, dtype=int), "hand-made")
    rng = np.random.default_rng(0)
    assert sorted(draw_lengths(pool, 5, 1, rng, heterogeneity=0.0)) == [49, 50, 51, 52, 53]
    wide = draw_lengths(pool, 50, 1, rng, heterogeneity=200.0)
    assert len(set(wide.tolist())) == 50
    assert wide.std() > 25


def test_orders_of_lengths() -> None:
    pool = LengthPool(np.arange(1, 8), np.zeros(7, dtype=int), "hand-made")
    lengths = {
        order: draw_lengths(pool, 7, 1, np.random.default_rng(0), order=order).tolist()
        for order in ("ascending", "descending", "bursty")
    }
    assert lengths["ascending"] == [1, 2, 3, 4, 5, 6, 7]
    assert lengths["descending"] == [7, 6, 5, 4, 3, 2, 1]
    assert lengths["bursty"] == [1, 5, 2, 6, 3, 7, 4]


def test_a_stretch_keeps_order_gaps_and_lengths() -> None:
    arrival_s = np.array([1.0, 1.5, 4.0, 4.0, 9.0])
    prompts, outputs = np.array([10, 20, 30, 40, 50]), np.array([1, 2, 3, 4, 5])
    work = stretch(arrival_s, prompts, outputs, tasks=6, training_share=0.5, first=1, seed=3)
    serves = work.is_inference
    assert work.release_s[serves].tolist() == [0.0, 2.5, 2.5]
    assert work.prompt_tokens[serves].tolist() == [20, 30, 40]
    assert work.output_tokens[serves].tolist() == [2, 3, 4]
    assert set(work.prompt_tokens[~serves].tolist()) <= set(prompts.tolist())
    latest = 0.0
    for task in range(6):
        if serves[task]:
            latest = work.release_s[task]
        assert work.release_s[task] == latest
    with pytest.raises(FieldError, match="at most the 5 requests"):
        stretch(arrival_s, prompts, outputs, tasks=6, training_share=0.0)
