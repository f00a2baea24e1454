"""Columns as JSON: the text and the values of nested lists, by whatever way they are coded."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from profiles import examples

from instances import json_columns
from instances.json_columns import as_json, decoded


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Any:
    """Take the ways of large arrays for small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_columns, "_PIECE", 8)
        yield


def arrays(**options: Any) -> st.SearchStrategy[np.ndarray]:
    shapes = some.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
    return some.arrays(np.float64, shapes, elements=st.floats(width=64, **options)) | some.arrays(
        st.sampled_from([np.int8, np.int32, np.int64]), shapes
    )


@given(arrays())
@settings(max_examples=examples(200), deadline=None)
def test_arrays_are_written_as_nested_lists_are(array: np.ndarray) -> None:
    assert bytes(as_json(array)) == msgspec.json.encode(array.tolist())


@given(arrays(allow_nan=False, allow_infinity=False))
@settings(max_examples=examples(200), deadline=None)
def test_arrays_come_back(array: np.ndarray) -> None:
    text = bytes(as_json(array))
    found = decoded(text)
    if len(text) > 8 and array.size:
        assert isinstance(found, np.ndarray)
        assert found.shape == array.shape
    assert np.asarray(found).tolist() == array.tolist()


@given(arrays(), st.data())
@example(np.arange(12).reshape(2, 3, 2), None)
@settings(max_examples=examples(400), deadline=None)
def test_any_text_is_read_as_the_decoder_does(array: np.ndarray, data: Any) -> None:
    text = b'{"a":' + bytes(as_json(array)) + b"}"
    for _ in range(data.draw(st.integers(0, 3)) if data else 0):
        at = data.draw(st.integers(5, len(text)))
        piece = data.draw(st.sampled_from([*list('[],;|-1e. n"{}'), "],[", "]],[[", "null"]))
        text = text[:at] + piece.encode() + text[at + data.draw(st.integers(0, 2)) :]

    def said(read: Any) -> Any:
        try:
            return read(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    found, wanted = said(decoded), said(msgspec.json.decode)
    if isinstance(found, dict) and isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            if isinstance(value, np.ndarray):
                # As a field makes of a list: numbers next to floats become floats.
                found[name], wanted[name] = value.tolist(), np.asarray(wanted[name]).tolist()
    assert found == wanted
