"""Hop models: exact recovery, one model per link, and what the measurements say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_data import DATA, needs_data
from sklearn.utils.estimator_checks import parametrize_with_checks

from experiments.hop_profiles import hop_errors, pick_link, read_hop_profile
from instances import generate
from lemix_opt import Table
from lemix_opt.errors import FieldError, UnknownNameError
from lemix_opt.grid import on_grid
from predictors import HopModel, estimate_costs, load_calibration, load_hops
from predictors.hops import LINKS, fit_hop_calibration, hop_calibrations, load_hop_calibrations
from predictors.model_shapes import model_shape


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([HopModel(), HopModel(pieces=2)])
def test_they_are_scikit_learn_estimators(estimator: Any, check: Any) -> None:
    check(estimator)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1e-3), st.floats(1e-12, 1e-9))
def test_latency_and_bandwidth_are_found_again(latency: float, per_byte: float) -> None:
    X = np.linspace(1e3, 1e8, 30)[:, None]
    fitted = HopModel(calibrate=False).fit(X, latency + per_byte * X[:, 0])
    assert fitted.latency_s_[0] == pytest.approx(latency, rel=1e-6, abs=1e-12)
    assert fitted.per_byte_s_[0] == pytest.approx(per_byte, rel=1e-6)


def test_neither_coefficient_is_negative() -> None:
    """Times that fall with the size have no line of positive bandwidth."""
    fitted = HopModel(calibrate=False).fit([[1.0], [2.0], [3.0]], [3.0, 2.0, 1.0])
    assert fitted.per_byte_s_[0] == 0
    fitted = HopModel(calibrate=False).fit([[1.0], [2.0], [3.0]], [0.5, 2.0, 3.5])
    assert fitted.latency_s_[0] == 0


def test_two_pieces_meet_where_the_protocol_changes() -> None:
    sent = np.arange(1.0, 41.0)
    y = np.where(sent < 17, 1 + 2 * sent, 5 + 10 * sent)
    fitted = HopModel(pieces=2, calibrate=False).fit(sent[:, None], y)
    assert fitted.break_bytes_ == 17
    assert fitted.latency_s_ == pytest.approx([1, 5])
    assert fitted.per_byte_s_ == pytest.approx([2, 10])
    assert fitted.predict(sent[:, None]) == pytest.approx(y)
    with pytest.raises(FieldError, match="pieces"):
        HopModel(pieces=3).fit(sent[:, None], y)


def table(devices: list[int]) -> Table:
    rows = len(devices)
    columns = {
        "devices_per_node": np.array(devices),
        "size": np.arange(1, rows + 1),
        "time_stats.send_recv.median": np.arange(1.0, rows + 1),
    }
    return Table("hand-made", columns)


def test_links_are_never_pooled() -> None:
    measured = table([1, 2, 2, 1])
    assert pick_link(measured, "within").sent_bytes.tolist() == [2, 3]
    assert pick_link(measured, "across").sent_bytes.tolist() == [1, 4]
    assert pick_link(measured, "across").seconds.tolist() == [0.001, 0.004]
    with pytest.raises(UnknownNameError, match="'across'"):
        pick_link(measured, "acros")


def test_intervals_widen_beyond_the_measured_sizes_as_far_as_the_data_ask_for_it() -> None:
    rng = np.random.default_rng(0)
    sent = np.geomspace(1e3, 1e8, 200)
    noise = np.exp(rng.normal(0, 0.02, 200))
    straight = HopModel().fit(sent[:, None], (1e-5 + 1e-9 * sent) * noise)
    bent = HopModel().fit(sent[:, None], (1e-5 + 1e-9 * sent + 2e-17 * sent**2) * noise)
    asked = np.array([[1e6], [1e8], [1e9]])
    assert bent.noise_.per_doubling[0] > straight.noise_.per_doubling[0]
    widths = [np.diff(np.log(m.predict_interval(asked)), axis=1).ravel() for m in (straight, bent)]
    for inside, edge, beyond in widths:
        assert inside == pytest.approx(edge)
        assert beyond > edge
    assert widths[1][2] > 1.5 * widths[1][1]


def test_just_beyond_the_measured_sizes_nothing_is_surer_than_within() -> None:
    rng = np.random.default_rng(1)
    sent = np.geomspace(1e3, 1e8, 200)
    model = HopModel().fit(sent[:, None], (1e-5 + 1e-9 * sent) * np.exp(rng.normal(0, 0.1, 200)))
    asked = np.geomspace(9e7, 1e10, 60)[:, None]
    width = np.diff(np.log(model.predict_interval(asked)), axis=1).ravel()
    upper = model.predict_quantile(asked) / model.predict(asked)
    assert np.all(np.diff(width) >= -1e-12)
    assert np.all(np.diff(upper) >= -1e-12)


@needs_data
@pytest.mark.parametrize("link", LINKS)
def test_packaged_calibrations_come_from_the_data(
    link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    profile = read_hop_profile(link)
    said = load_hop_calibrations("a100-send-recv")[link]
    again = fit_hop_calibration(
        said.name,
        link,
        profile.sent_bytes,
        profile.seconds,
        pieces=len(said.latency_s),
        gpu=said.gpu,
        source=profile.source,
        sha256=profile.sha256,
    )
    assert again.latency_s == pytest.approx(said.latency_s, rel=1e-4)
    assert again.per_byte_s == pytest.approx(said.per_byte_s, rel=1e-4)
    assert again.mape_pct == pytest.approx(said.mape_pct, abs=0.02)
    assert (again.rows, again.sha256, again.break_bytes) == (
        said.rows,
        said.sha256,
        said.break_bytes,
    )


@needs_data
def test_one_line_does_not_describe_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the calibration across machines has two pieces, and the one within has not."""
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    spread = {}
    for link in LINKS:
        profile = read_hop_profile(link)
        X = profile.sent_bytes[:, None]
        spread[link] = [HopModel(n).fit(X, profile.seconds).residual_std_ for n in (1, 2)]
    assert spread["within"][0] < 0.1
    assert spread["across"][0] > 0.5
    assert spread["across"][1] < 0.25


@needs_data
def test_real_hops_are_covered_beyond_the_fitted_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    for link, most in (("within", 8), ("across", 16)):
        at_random, larger, _ = hop_errors(read_hop_profile(link))
        assert at_random.mape_pct < most
        assert at_random.covered_pct > 85
        assert larger.covered_pct > 85


def test_packaged_models_predict_what_they_say() -> None:
    assert {c.link for c in hop_calibrations()} == set(LINKS)
    models = load_hops("a100-send-recv")
    within, across = (load_hop_calibrations("a100-send-recv")[link] for link in LINKS)
    sent = 2.0**20
    expected = within.latency_s[0] + within.per_byte_s[0] * sent
    assert models["within"].predict([[sent]])[0] == pytest.approx(expected)
    assert across.break_bytes is not None
    far = 2 * across.break_bytes
    expected = across.latency_s[1] + across.per_byte_s[1] * far
    assert models["across"].predict([[far]])[0] == pytest.approx(expected)
    assert "GB/s" in str(within)
    assert "MB on" in str(across)
    with pytest.raises(UnknownNameError, match="a100-send-recv"):
        load_hops("a100-send-rec")


class Bytes:
    """A hop model that returns the bytes it is asked about, in µs."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, X: Any) -> np.ndarray:
        return np.asarray(self.factor * 1e-6 * np.asarray(X)[:, 0])


def test_hops_carry_the_hidden_state_over_the_link_of_each_boundary() -> None:
    work, shape = generate(6, seed=3), model_shape("llama-7b")
    model = load_calibration("llama-7b-a100").time_model()
    hops = {"within": Bytes(1), "across": Bytes(10)}
    links = ("within", "across", "within")
    costs = estimate_costs(work, model, shape, stages=4, tick_s=None, hop_model=hops, link=links)
    sent = 2 * 4096 * work.batch * work.prompt_tokens
    assert costs.hop_s[0] == pytest.approx(1e-6 * np.outer(sent, [1, 10, 1]))
    gridded = estimate_costs(work, model, shape, stages=4, hop_model=hops, link="across")
    assert on_grid(gridded.hop_s, 0.001)
    assert np.all(gridded.hop_s[0] >= 1e-5 * sent[:, None] - 1e-9)
    assert np.all(estimate_costs(work, model, shape, stages=4).hop_s == 0)
    for wrong, said in ((("within",), "1 links; expected 3"), ("acros", "Did you mean 'across'")):
        with pytest.raises((FieldError, UnknownNameError), match=said):
            estimate_costs(work, model, shape, stages=4, hop_model=hops, link=wrong)
