"""Slow-down of what shares a GPU: fitted from measurements, packaged with source and spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_data import DATA, needs_data

from instances import load
from instances.datasets import dataset
from lemix_opt import Contention, Costs
from lemix_opt.errors import FieldError, UnknownNameError
from predictors.sharing import (
    PairSlowdown,
    ShareSlowdown,
    fit_pair_slowdown,
    fit_share_slowdown,
    load_pair_slowdown,
    load_share_slowdown,
    scaled_costs,
)

ABOUT: dict[str, Any] = {"gpu": "g", "source": "hand-made", "licence": "none", "sha256": ""}
SHARES = ("llama-prefill-a100", "llama-decode-a100")
PAIRS = ("training-pair-k80", "training-pair-p100", "training-pair-v100")


def fitted_share(name: str) -> ShareSlowdown:
    table = load("muxserve_llama_a100")
    work = name.split("-")[1]
    return fit_share_slowdown(
        name,
        [f"{m} {n}" for m, n in zip(table["model"], table["n_gpus"], strict=True)],
        table["sm_pct"] / 100,
        table["batch"],
        table["seqlen"],
        table[f"{work}_ms"],
        work=work,
        gpu="a100-80gb",
        source="muxserve_llama_a100: hao-ai-lab/MuxServe 2231480",
        licence="Apache-2.0 by its setup.py",
        sha256=table.sha256,
    )


def fitted_pair(name: str) -> PairSlowdown:
    table = load("gavel_pairs")
    gpu = name.rsplit("-", 1)[1]
    rows = (table["gpu"] == gpu) & (table["n_gpus1"] == 1)
    return fit_pair_slowdown(
        name,
        table["rel1"][rows],
        gpu=gpu,
        source="gavel_pairs: stanford-futuredata/gavel c4fa400",
        licence="MIT",
        sha256=table.sha256,
    )


@needs_data
@pytest.mark.parametrize("name", SHARES)
def test_the_packaged_shares_are_what_the_measurements_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    assert fitted_share(name) == load_share_slowdown(name)


@needs_data
@pytest.mark.parametrize("name", PAIRS)
def test_the_packaged_pairs_are_what_the_measurements_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    assert fitted_pair(name) == load_pair_slowdown(name)


def test_the_figures_that_go_with_the_data() -> None:
    """The data's own description says 1.55 and 2.37 for prefill, 1.19 and 1.51 for decode."""
    prefill, decode = (load_share_slowdown(name) for name in SHARES)
    assert prefill.at([0.5, 0.3, 1.0]) == pytest.approx([1.55, 2.37, 1.0], abs=0.006)
    assert decode.at([0.5, 0.3, 1.0]) == pytest.approx([1.19, 1.51, 1.0], abs=0.006)


def test_sources_are_registered() -> None:
    for name in SHARES:
        assert load_share_slowdown(name).sha256 == dataset("muxserve_llama_a100").sha256
    for name in PAIRS:
        assert load_pair_slowdown(name).sha256 == dataset("gavel_pairs").sha256


@given(st.floats(0.3, 1.0), st.floats(0.3, 1.0))
def test_less_of_a_gpu_is_never_faster(one: float, other: float) -> None:
    for name in SHARES:
        less, more = load_share_slowdown(name).at(sorted([one, other]))
        assert less >= more >= 1


@pytest.mark.parametrize("share", [0.29, 1.01, float("nan")])
def test_nothing_is_said_beyond_what_was_measured(share: float) -> None:
    with pytest.raises(FieldError, match="share"):
        load_share_slowdown(SHARES[0]).at(share)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'llama-decode-a100'"):
        load_share_slowdown("llama-decod-a100")
    with pytest.raises(UnknownNameError, match="Did you mean 'training-pair-v100'"):
        load_pair_slowdown("training-pairs-v100")


def test_ratios_are_within_one_shape_of_one_group() -> None:
    fitted = fit_share_slowdown(
        "x",
        group=[0, 0, 0, 1, 1, 1, 1, 1],
        share=[1, 0.5, 0.5, 1, 0.5, 0.25, 0.5, 1],
        batch=[1, 1, 2, 1, 1, 1, 1, 1],
        length=[10, 10, 10, 10, 10, 10, 4, 4],
        seconds=[1.0, 2.0, 9.0, 10.0, 40.0, 50.0, 80.0, 1.0],
        work="prefill",
        min_tokens=10,
        **ABOUT,
    )
    # Two rows have no time on all SMs or too few tokens; the ratios left are 2 and 4, and 5.
    assert (fitted.share, fitted.slowdown) == ((0.25, 0.5, 1.0), (5.0, 3.0, 1.0))
    assert (fitted.points, fitted.quartiles[1]) == ((1, 2, 2), (2.5, 3.5))
    # Held out, 4 is predicted for 2 and 2 for 4: errors of 100 % and 50 %.
    assert fitted.mape_pct == 75.0


def test_a_missing_run_is_left_out_and_nothing_left_is_said() -> None:
    shape: dict[str, Any] = {"batch": [1, 1], "length": [9, 9], "share": [1, 0.5], "group": [0, 0]}
    with pytest.raises(FieldError, match="on all SMs"):
        fit_share_slowdown(
            "x", **shape, seconds=[np.nan, 1.0], work="decode", min_tokens=1, **ABOUT
        )
    with pytest.raises(FieldError, match="no pair that fits"):
        fit_pair_slowdown("x", [np.nan, np.nan], **ABOUT)


def test_pairs_that_do_not_fit_are_counted_not_averaged() -> None:
    fitted = fit_pair_slowdown("x", [0.5, np.nan, 0.25, 1.0], **ABOUT)
    assert (fitted.slowdown, fitted.pairs, fitted.unfit) == (2.0, 3, 1)


def test_classes_are_stretched_one_by_one() -> None:
    costs = Costs(np.ones((1, 2, 2)), 2.0, 3.0, 4.0, 5.0, 6.0)
    two = scaled_costs(costs, [1.0, 1.5])
    assert two.classes == 2
    assert two.forward_s[:, 0, 0].tolist() == [1.0, 1.5]
    assert two.backward_s[:, 0, 0].tolist() == [2.0, 3.0]
    assert two.update_s[:, 0].tolist() == [5.0, 7.5]
    assert two.hop_s[:, 0, 0].tolist() == [6.0, 6.0]
    assert two.held_bytes[:, 0, 0].tolist() == [3.0, 3.0]
    assert two.resident_bytes[:, 0].tolist() == [4.0, 4.0]
    assert scaled_costs(two, [1.0, 1.0]) == two
    with pytest.raises(FieldError, match=r"\(2,\), one factor for every node class"):
        scaled_costs(two, 2.0)


def test_shares_and_pairs_give_the_contention_of_two_operations() -> None:
    curve = load_share_slowdown("llama-prefill-a100")
    halves = curve.contention()
    assert halves.forward == halves.backward == pytest.approx(1.55, abs=0.01)
    uneven = curve.contention(0.7)
    assert (uneven.forward, uneven.backward) == pytest.approx((1.23, 2.37), abs=0.01)
    with pytest.raises(FieldError, match="share"):
        curve.contention(0.9)
    pair = load_pair_slowdown("training-pair-v100")
    assert pair.contention() == Contention(pair.slowdown, pair.slowdown)
