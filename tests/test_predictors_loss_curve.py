"""Loss by updates: the curve is found again, whole runs are held out, files come back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from test_engine import build, run

from lemix_opt.errors import FieldError, FileFormatError, UnknownNameError
from lemix_opt.freshness import freshness
from predictors import LossCurve, expected_loss, load_loss_curve
from predictors.loss_curve import loss_curves, read_loss_curve, save_loss_curve


def published_rates(updates: int, steps: int) -> float:
    """Add up the learning rates of the updates so far, one by one."""
    return sum(max(0.0, 1 - k / steps) for k in range(updates))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 5), st.floats(0.5, 5), st.floats(0.02, 0.5), st.sampled_from([20, 100, None]))
def test_the_curve_is_found_again(
    floor: float, drop: float, rate: float, steps: int | None
) -> None:
    updates = np.arange(101)
    progress = [float(u) if steps is None else published_rates(u, steps) for u in range(101)]
    loss = floor + drop * np.exp(-rate * np.array(progress))
    fitted = LossCurve(steps).fit(updates, loss)
    assert fitted.predict(updates) == pytest.approx(loss, abs=1e-4 * drop)


def test_updates_after_the_schedule_change_nothing() -> None:
    curve = LossCurve(10).fit([0, 1, 5, 10], [4.0, 3.0, 2.0, 1.5])
    assert curve.predict([10, 11, 500]).tolist() == [curve.predict(10)] * 3
    falling = LossCurve(None).fit([0, 1, 5, 10], [4.0, 3.0, 2.0, 1.5])
    assert falling.predict(11) < falling.predict(10)


def test_a_loss_that_rises_is_not_extrapolated_upwards() -> None:
    """No coefficient is negative, so that the best curve of rising losses is flat."""
    curve = LossCurve(None).fit([0, 1, 2, 3], [1.0, 2.0, 3.0, 4.0])
    assert curve.predict([0, 3, 99]) == pytest.approx([2.5] * 3, abs=1e-3)


def test_intervals_come_from_runs_that_were_left_out() -> None:
    updates, runs = np.tile(np.arange(50), 4), np.repeat(np.arange(4), 50)
    factor = np.array([0.9, 1.0, 1.0, 1.1])[runs]
    loss = factor * (2 + 3 * np.exp(-0.1 * updates))
    curve = LossCurve(None).fit(updates, loss, runs)
    low, high = curve.predict_interval(updates, 0.95).T
    assert np.mean((low <= loss) & (loss <= high)) >= 0.95
    # The lowest run against the mean of the other three.
    expected = np.log(np.mean([1.0, 1.0, 1.1]) / 0.9)
    assert np.max(np.abs(curve.residuals_)) == pytest.approx(expected, rel=1e-3)
    alone = LossCurve(None).fit(updates[:50], loss[:50])
    assert alone.residuals_.size == 0
    assert np.isnan(alone.residual_std_)
    assert np.all(np.isinf(alone.predict_interval([3])[:, 1]))


def test_it_is_cloned_without_its_fit() -> None:
    copy = clone(load_loss_curve("tiny-bytes-1e-3"))
    assert copy.steps == 100
    assert not hasattr(copy, "floor_")


@pytest.mark.parametrize(
    ("updates", "loss", "said"),
    [
        ([0, 1, 1], [3.0, 2.0, 2.0], "2 distinct"),
        ([0, 1, -2], [3.0, 2.0, 1.0], "updates"),
        ([0, 1, 2], [3.0, 2.0, 0.0], "loss"),
        ([0, 1, 2], [3.0, 2.0], "loss"),
    ],
)
def test_what_is_no_recording_is_refused(updates: list[int], loss: list[float], said: str) -> None:
    with pytest.raises(FieldError, match=said):
        LossCurve().fit(updates, loss)


def test_saved_curves_come_back(tmp_path: Path) -> None:
    runs = np.repeat([0, 1], 4)
    loss = [4.0, 3.0, 2.0, 1.5, 4.1, 3.1, 2.0, 1.6]
    curve = LossCurve(20).fit([0, 1, 5, 10] * 2, loss, runs)
    save_loss_curve(curve, tmp_path / "c.json", name="c", runs=2, rows=8, source="by hand")
    back = read_loss_curve(tmp_path / "c.json")
    assert (back.name, back.runs, back.rows, back.source) == ("c", 2, 8, "by hand")
    again = back.curve()
    assert again.get_params() == curve.get_params()
    assert again.residual_std_ == curve.residual_std_
    assert again.predict_interval([0, 7, 99], 0.8).tolist() == (
        curve.predict_interval([0, 7, 99], 0.8).tolist()
    )


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    for name, content in {"list.json": b"[]", "cut.json": b"{", "other.json": b'{"a": 1}'}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=name):
            read_loss_curve(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("floor", -1.0, "floor: value -1.0; expected at least 0"),
        ("drop", 1.7e308, "floor . drop: value inf; expected a finite number"),
        ("rate", None, "Expected `float`, got `null`"),
        ("steps", 0, "steps: value 0; expected at least 1"),
        ("residuals", ["a"], "Expected `float`, got `str`"),
    ],
)
def test_a_curve_that_predicts_no_loss_is_refused(
    name: str, value: object, said: str, tmp_path: Path
) -> None:
    saved = {"name": "c", "steps": 9, "floor": 1.7e308, "drop": 1.0, "rate": 1.0}
    saved |= {"residuals": [], "runs": 1, "rows": 3, "source": "", name: value}
    (tmp_path / "c.json").write_bytes(msgspec.json.encode(saved))
    with pytest.raises(FileFormatError, match=f"c.json: not a saved loss curve .{said}"):
        read_loss_curve(tmp_path / "c.json")


@pytest.mark.parametrize("name", sorted(loss_curves()))
def test_packaged_curves_say_where_they_come_from(name: str) -> None:
    saved = loss_curves()[name]
    assert "recorded on CPU" in saved.source
    assert "Not an LLM" in saved.source
    assert (saved.runs, saved.rows, len(saved.residuals)) == (3, 303, 303)
    loss = saved.curve().predict(np.arange(101))
    assert np.all(np.diff(loss) <= 0)
    # An untrained model of bytes knows nothing: ln 256 nats, give or take its start.
    assert loss[0] == pytest.approx(np.log(256), rel=0.05)
    assert 0 < saved.curve().residual_std_ < 0.02


def test_an_unknown_curve_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tiny-bytes-1e-3'"):
        load_loss_curve("tiny-byte-1e-3")


def test_the_expected_loss_is_the_mean_over_requests() -> None:
    """A training task ends at 12 s; requests start at 0 and, on its node, at 12."""
    instance = build([1, 0, 0], [0.0, 0.0, 12.0], nodes=2)
    updates = freshness(instance, run(instance, [1, 0, 1])).updates
    curve = load_loss_curve("tiny-bytes-1e-3")
    assert updates.tolist() == [-1, 0, 1]
    assert expected_loss(curve, updates) == pytest.approx(np.mean(curve.predict([0, 1])))
    assert np.isnan(expected_loss(curve, [-1, -1]))
