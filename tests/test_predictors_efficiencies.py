"""Groups of rows, and fits of terms by group, against obvious references."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from predictors.efficiencies import TermTree, distinct_rows, find_rows, overlap
from predictors.model_shapes import model_shape
from predictors.operations import operation_rows

VALUES = st.sampled_from([0.0, -0.0, 0.1, 0.2, 1.0, 2.0, 3.0, 989.4e12])
ROWS = arrays(np.float64, st.tuples(st.integers(0, 12), st.just(3)), elements=VALUES)


@given(ROWS, ROWS)
def test_rows_are_grouped_and_found_by_equality(keys: np.ndarray, rows: np.ndarray) -> None:
    distinct, place = distinct_rows(rows)
    assert np.array_equal(distinct[place], rows)
    assert len(distinct) == len({tuple(row) for row in rows.tolist()})
    keys = distinct_rows(keys)[0]
    known = {tuple(key): at for at, key in enumerate(keys.tolist())}
    assert find_rows(keys, rows).tolist() == [known.get(tuple(row), -1) for row in rows.tolist()]


def test_small_columns_count_beside_large_ones() -> None:
    shares = np.arange(1, 101) / 100
    X = operation_rows(
        "prefill", model_shape("llama-7b"), "h100-80gb", rows=4, length=256, sm_share=shares
    )
    assert len(distinct_rows(X)[0]) == 100


def test_a_row_has_the_seconds_of_its_deepest_known_group() -> None:
    rng = np.random.default_rng(0)
    wide, deep = np.array([[0.0], [1.0]]), np.array([[0.0, 0.0], [1.0, 5.0]])
    tables = rng.uniform(1, 2, (2, 4)), rng.uniform(1, 2, (2, 4))
    blocks = np.array([0, 1, 1, 2])
    asked = np.array([[1.0, 5.0], [1.0, 6.0], [0.0, 0.0], [2.0, 5.0], [0.0, 5.0]])
    terms = rng.uniform(1, 2, (len(asked), 4))
    for sharpness in (1.0, 2.0, 3.0):
        tree = TermTree((wide, deep), tables, blocks, sharpness)
        levels = (asked[:, :1], asked)
        assert tree.find(levels).tolist() == [1, 3, 0, -1, 2]
        found = tree.predict(terms, levels)
        used = (tables[1][1], tables[0][1], tables[1][0], None, tables[0][0])
        for row, seconds, own in zip(terms, found, used, strict=True):
            if own is None:
                assert np.isnan(seconds)
            else:
                assert np.isclose(seconds, overlap(row[None], own, blocks, sharpness)[0])
