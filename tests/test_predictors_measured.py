"""Actual times: what was measured is returned, what was not is labelled or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_data import DATA, needs_data

from experiments.profiles import read_profile
from lemix_opt.errors import FieldError, UnknownNameError
from predictors.measured import LABELS, MeasuredTimes


def measured(batch: list[int], length: list[int], seconds: list[float]) -> MeasuredTimes:
    return MeasuredTimes(np.array(batch), np.array(length), np.array(seconds), "hand-made")


def test_points_lines_and_labels() -> None:
    times = measured([1, 1, 2, 4], [100, 200, 100, 200], [1.0, 2.0, 2.2, 9.0])
    seconds, label = times.at([1, 1, 1, 1, 1], [100, 150, 200, 500, 50])
    assert seconds == pytest.approx([1.0, 1.55, 2.0, 2.1 + 6.9 / 2, 1.0])
    said = [LABELS[i].split()[0] for i in label]
    assert said == ["measured", "interpolated", "measured", "measured", "interpolated"]
    assert LABELS[label[3]] == "measured at equal tokens, length extrapolated"


def test_nothing_is_said_beyond_what_was_measured() -> None:
    with pytest.raises(
        FieldError, match=r"801 tokens .batch 1, length 801.*at most the 800 tokens"
    ):
        measured([1, 4], [100, 200], [1.0, 9.0]).at([1], [801])


def test_missing_runs_are_counted() -> None:
    assert measured([1, 1, 1], [1, 2, 3], [1.0, float("nan"), 2.0]).missing == 1
    with pytest.raises(FieldError, match="at least two"):
        measured([1, 1], [1, 2], [1.0, float("nan")])


def test_a_batch_faster_than_its_half_is_left_out_and_counted() -> None:
    times = measured([1, 2, 4], [100, 100, 100], [1.0, 2.0, 0.4])
    assert times.implausible == 1
    with pytest.raises(FieldError, match="at most the 200 tokens"):
        times.at([4], [100])


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8), st.integers(100, 800))
def test_interpolation_stays_between_its_neighbours(times: list[float], query: int) -> None:
    lengths = [100 * (i + 1) for i in range(len(times))]
    table = measured([1] * len(times), lengths, sorted(times))
    query = min(query, lengths[-1])
    (seconds,), _ = table.at([1], [query])
    below, above = table.at([1], [query // 100 * 100])[0][0], max(times)
    assert below - 1e-12 <= seconds <= above + 1e-12


def test_spread_comes_from_repeats_only() -> None:
    assert measured([1, 1], [1, 2], [1.0, 2.0]).spread is None
    rng = np.random.default_rng(0)
    length = np.repeat(np.arange(1, 200), 6)
    noisy = MeasuredTimes(
        np.ones_like(length), length, length * np.exp(rng.normal(0, 0.05, length.size)), "repeats"
    )
    assert noisy.spread == pytest.approx(0.05, rel=0.1)
    drawn = noisy.draw(np.ones(20_000), np.random.default_rng(1))
    assert np.std(np.log(drawn)) == pytest.approx(noisy.spread, rel=0.05)
    still = measured([1, 1], [1, 2], [1.0, 2.0]).draw(np.ones(3), rng)
    assert still.tolist() == [1.0, 1.0, 1.0]


@needs_data
def test_real_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    mux = read_profile("muxserve_llama_a100", "llama-13b").measured
    assert (mux.spread, mux.missing, mux.implausible) == (None, 3, 0)
    split = read_profile("splitwise_perf_model", "llama2-70b", "h100-80gb", 2).measured
    assert split.spread == pytest.approx(0.0227, abs=0.0005)
    # Batch 64 of 512 tokens takes 0.36 s where batch 32 takes 2.4 s: it was not run in one piece.
    assert split.implausible == 5
    with pytest.raises(UnknownNameError, match="Did you mean 'llama-13b'"):
        read_profile("muxserve_llama_a100", "lama-13b")
    with pytest.raises(FieldError, match="one of the measured 2, 4, 8"):
        read_profile("splitwise_perf_model", "llama2-70b", "h100-80gb", 3)
