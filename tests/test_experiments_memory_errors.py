"""Held-out errors of measured peak memory, coverage, and runs out of memory foreseen."""

from __future__ import annotations

import numpy as np
import pytest
from measured_data import DATA, needs_data

from experiments.memory_errors import coverages, fit_profile, out_of_memory, physics
from experiments.memory_profiles import MemoryProfile, read_memory_profile


@pytest.fixture(scope="module")
def profile() -> MemoryProfile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEMIX_DATA", str(DATA))
        return read_memory_profile()


@needs_data
def test_every_row_of_the_table_is_stated(profile: MemoryProfile) -> None:
    assert (profile.measured.sum(), profile.failed.sum(), profile.left_out) == (308, 100, 0)
    assert not np.any(profile.measured & profile.failed)


@needs_data
def test_errors_stay_within_what_was_promised(profile: MemoryProfile) -> None:
    fitted, errors = fit_profile(profile)
    found = {e.split: e.mape_pct for e in errors}
    alone = next(v for k, v in found.items() if k.startswith("physics"))
    for said in ("factors", "factors and boosting"):
        unseen = {k: v for k, v in found.items() if k.startswith(f"{said}, unseen")}
        assert found[f"{said}, random fifth"] < 8
        assert len(unseen) == 2
        assert max(unseen.values()) < 15
    assert alone < 8
    measured = profile.measured
    X, y, names = profile.parts[measured], profile.peak_bytes[measured], profile.model[measured]
    low, high = fitted.predict_interval(X, 0.9, names).T
    assert np.mean((low <= y) & (y <= high)) > 0.9
    assert np.all(physics(X) > 0)


@needs_data
def test_intervals_cover_runs_held_out(profile: MemoryProfile) -> None:
    found = coverages(profile, seeds=1)
    assert 0.86 < found[0].share < 0.96
    # One fold assignment; groups of few runs move by more than a tenth with a single one.
    assert min(c.share for c in found if c.held_out >= 16) > 0.7


@needs_data
def test_runs_out_of_memory_are_foreseen(profile: MemoryProfile) -> None:
    found = out_of_memory(profile)
    assert found.recall.of == 100
    assert found.false_alarms.of == 349
    assert found.recall.value >= 0.95
    assert found.false_alarms.value <= 0.1
