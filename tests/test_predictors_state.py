"""Attributes of loaded models: whatever they are, a file is refused by name or predicts numbers."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from fuzzing import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

from lemix_opt.errors import FieldError, FileFormatError
from predictors import saving
from predictors.hops import HopModel
from predictors.memory_model import MemoryModel
from predictors.model_shapes import model_shape
from predictors.operation_model import OperationTimeModel
from predictors.operation_terms import terms
from predictors.operations import operation_rows
from predictors.saving import load_model, save_model
from predictors.state import State
from predictors.time_models import AnalyticTimeModel, BoostedTimeModel, ReferenceTimeModel

SHAPES = np.array([(b, n) for b in (1, 2, 4, 8) for n in (32, 64, 128, 192, 256, 512)], dtype=float)
NOISE = np.exp(np.random.default_rng(0).normal(0, 0.05, len(SHAPES)))
SECONDS = NOISE * (1e-3 + 1e-6 * SHAPES.prod(axis=1))
SENT = np.geomspace(1e3, 1e9, len(SHAPES))[:, None]
NAMES = np.array(["a", "b"] * (len(SHAPES) // 2))


def _operations() -> np.ndarray:
    columns = {"rows": np.tile(SHAPES[:, 0], 2), "length": np.tile(SHAPES[:, 1], 2)}
    return operation_rows("prefill", model_shape("llama-7b"), "a100-80gb", **columns)


OPERATIONS = _operations()
WORK = np.tile(NOISE, 2) * terms(OPERATIONS).sum(axis=1)
# Longer than measured, and another kind.
FAR = OPERATIONS * np.where(np.arange(OPERATIONS.shape[1]) == 8, 50, 1)
OTHER = OPERATIONS + np.where(np.arange(OPERATIONS.shape[1]) == 0, 1, 0)
MODELS: tuple[tuple[Any, np.ndarray], ...] = (
    (OperationTimeModel(trees=4).fit(OPERATIONS, WORK), np.vstack([OPERATIONS[:3], FAR, OTHER])),
    (HopModel(2).fit(SENT, NOISE * (1e-5 + SENT[:, 0] / 1e10)), SENT * 100),
    (MemoryModel(((0,), (0, 1)), 1.0, 0.5).fit(SHAPES, SECONDS, NAMES), SHAPES),
    (MemoryModel().fit(SHAPES, SECONDS), SHAPES),
    (AnalyticTimeModel().fit(SHAPES, SECONDS), SHAPES),
    (ReferenceTimeModel().fit(SHAPES, SECONDS), SHAPES),
    (BoostedTimeModel(n_estimators=4).fit(SHAPES, SECONDS), SHAPES),
)
NUMBERS = (np.nan, np.inf, -np.inf, 1e308, -1.0, 0.0, 0.5, 2.0)
WHOLE = (-(2**62), -1, 0, 1, 2, 255, 10**6, 2**62)
VALUES: tuple[Any, ...] = (None, True, "x", b"x", [], [[0]], [[10**6]], {}, (), *NUMBERS, *WHOLE)
TYPES = ("f4", "f2", "i1", "u8", "?", "c16", "O", "U9", ">f8", "M8[s]")


def _parts(model: object) -> list[object]:
    """Return an object of the package with all that it is made of."""
    found = [model]
    for value in vars(model).values():
        if type(value).__module__.startswith("predictors."):
            found += _parts(value)
    return found


def _array(data: st.DataObject, array: np.ndarray) -> Any:
    changes: dict[str, Callable[[], Any]] = {
        "shorter": lambda: array[1:],
        "longer": lambda: np.concatenate([array, array]),
        "flat": lambda: array.reshape(-1),
        "deep": lambda: array[..., None],
        "type": lambda: array.astype(data.draw(st.sampled_from(TYPES))),
        "order": lambda: np.asfortranarray(array),
    }
    how = data.draw(st.sampled_from([*changes, "entry", "entry", "entry", "all"]))
    if how in changes:
        return changes[how]()
    value = data.draw(st.sampled_from(NUMBERS if array.dtype.kind == "f" else WHOLE))
    if array.dtype.kind == "U":
        value = str(value)
    changed = array.copy()
    changed.reshape(-1)[data.draw(st.integers(0, array.size)) if how == "entry" else 0 :][
        : 1 if how == "entry" else None
    ] = value
    return changed


def _changed(data: st.DataObject, model: Any) -> Any:
    model = copy.deepcopy(model)
    own = vars(data.draw(st.sampled_from(_parts(model))))
    name = data.draw(st.sampled_from(sorted(own)))
    value, how = own[name], data.draw(st.integers(0, 9))
    if how == 0:
        del own[name]
    elif how == 1:
        added = data.draw(st.sampled_from(["predict", "check_state", "shape", "zz"]))
        own[added] = data.draw(st.sampled_from(VALUES))
    elif how < 8 and isinstance(value, np.ndarray):
        own[name] = _array(data, value)
    elif how < 8 and isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
        at = data.draw(st.integers(0, len(value) - 1))
        own[name] = (*value[:at], _array(data, value[at]), *value[at + 1 :])
    else:
        own[name] = data.draw(st.sampled_from((*VALUES, MODELS[1][0])))
    return model


def _write(model: Any, path: Path) -> None:
    """Save a model as `save_model` does, whatever it holds."""
    saved = {"version": saving.VERSION, "model": model, "data_sha256": "0" * 64}
    path.write_bytes(skops.io.dumps(saved))


@pytest.mark.parametrize("number", range(len(MODELS)))
def test_what_was_fitted_is_accepted(number: int, tmp_path: Path) -> None:
    model, X = MODELS[number]
    save_model(model, tmp_path / "m.skops", "0" * 64)
    found = load_model(tmp_path / "m.skops").model
    assert np.array_equal(found.predict(X), model.predict(X))
    assert np.array_equal(found.predict_interval(X, 0.5), model.predict_interval(X, 0.5))


@given(st.data(), st.sampled_from(range(len(MODELS))))
@settings(max_examples=examples(120), deadline=None)
def test_changed_models_are_refused_or_predict_numbers(data: st.DataObject, number: int) -> None:
    model, X = MODELS[number]
    with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
        path = Path(folder) / "fuzzed.skops"
        _write(_changed(data, model), path)
        said = refusal(lambda: _ask(path, X))
        assert said is None or "fuzzed" in said or "prediction, row" in said


def _ask(path: Path, X: np.ndarray) -> None:
    found = load_model(path).model
    if found.n_features_in_ == X.shape[1]:
        assert np.isfinite(found.predict(X)).all()
        interval = found.predict_interval(X, 0.5)
        assert np.isfinite(interval[:, 0]).all()
        assert not np.isnan(interval).any()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("coef_", np.ones(2), r"model\.coef_: shape \(2,\); expected an array of float64 of shape"),
        ("coef_", np.array([0, np.nan, 0]), r"model\.coef_\[1\]: value nan; expected a number"),
        ("coef_", np.ones(3, dtype="f4"), r"model\.coef_: entries of type float32"),
        ("coef_", 3.0, r"model\.coef_: a float; expected an array"),
        ("predict", 3.0, r"model\.predict: an attribute that hides a method"),
        ("shape", 3.0, r"model\.shape: an unknown attribute; expected only what a Analytic"),
        ("calibrate", [], r"model\.calibrate: a list; expected a number, a text or nothing"),
        ("n_features_in_", 2.0, r"model\.n_features_in_: a float; expected a whole number"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: Any, said: str, tmp_path: Path) -> None:
    model = copy.deepcopy(MODELS[4][0])
    vars(model)[name] = value
    _write(model, tmp_path / "m.skops")
    with pytest.raises(FileFormatError, match=rf"m\.skops: {said}.*\. Fit it again"):
        load_model(tmp_path / "m.skops")
    with pytest.raises(FieldError, match=said):
        model.check_state(State(model, "model")) if name != "predict" else State(model, "model")


def test_what_compiled_code_follows_stays_within_bounds(tmp_path: Path) -> None:
    """Columns, bins and children of trees lead out of no array and not back to where one was."""
    boosted, operations = MODELS[6][0], MODELS[0][0]
    for model, tree, name, value, said in (
        (operations, "trees_", "columns", 10**6, "at most"),
        (operations, "trees_", "bins", 31, "at most 30"),
        (boosted, "correction_", "columns", -1, "at least 0"),
        (boosted, "correction_", "children", 10**6, "at most"),
        (boosted, "correction_", "children", 0, "nodes that lie behind it"),
    ):
        changed = copy.deepcopy(model)
        array = vars(getattr(changed, tree))[name]
        array[...] = value
        _write(changed, tmp_path / "m.skops")
        with pytest.raises(FileFormatError, match=rf"model\.{tree}\.{name}.*{said}"):
            load_model(tmp_path / "m.skops")
