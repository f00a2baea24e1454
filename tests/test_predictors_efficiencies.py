"""Groups of rows, and fits of terms by group, against obvious references."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from predictors.efficiencies import Prior, TermTree, distinct_rows, find_rows, fit_tree, overlap
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


PRIOR = Prior(np.array([1.0, 1.0]), np.array([0.5, 1.0]))
ONE_BLOCK = np.zeros(2, dtype=np.int64)
SUMS = np.array([False, True])


def two_parts(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Terms, seconds and parts of a group: its sums are 1 or 20 times as long, by part."""
    terms = rng.uniform(0.5, 2, (rows, 2))
    part = np.arange(rows) % 2
    return terms, terms @ [1.5, 0.0] + terms[:, 1] * np.where(part, 20.0, 1.0), part


def test_terms_that_parts_have_of_their_own_leave_the_others_alone() -> None:
    terms, seconds, part = two_parts(np.random.default_rng(1), 12)
    group = np.zeros((12, 1))
    levels = (group, group, np.column_stack([group, part]))
    tree = fit_tree(terms, seconds, levels, 3.0, PRIOR, ONE_BLOCK, 1.0, partial={2: SUMS})
    # Level by level, one coefficient for both parts' sums would be made up for by the other term.
    assert np.allclose(tree.coefficients[2], [[1.5, 1.0], [1.5, 20.0]], rtol=0.1)
    assert 1.0 < tree.coefficients[1][0, 1] < 20.0
    assert np.allclose(tree.predict(terms, levels), seconds, rtol=0.05)


def test_parts_without_partial_terms_are_ordinary_groups() -> None:
    terms, seconds, part = two_parts(np.random.default_rng(2), 12)
    group = np.zeros((12, 1))
    levels = (group, np.column_stack([group, part]))
    nothing = np.zeros(2, dtype=bool)
    apart = fit_tree(terms, seconds, levels, 1.0, PRIOR, ONE_BLOCK, 1.0, partial={1: nothing})
    whole = fit_tree(terms, seconds, levels[:1], 1.0, PRIOR, ONE_BLOCK, 1.0)
    assert np.allclose(apart.coefficients[1], whole.coefficients[0])


def test_terms_without_freedom_are_those_of_the_group_above() -> None:
    rng = np.random.default_rng(3)
    terms = rng.uniform(0.5, 2, (40, 2))
    group = (np.arange(40) % 2)[:, None].astype(float)
    seconds = terms @ [1.0, 1.0] * np.where(group[:, 0], 2.0, 1.0)
    levels = (np.zeros((40, 1)), group)
    free = fit_tree(terms, seconds, levels, 1.0, PRIOR, ONE_BLOCK, 1.0)
    held = fit_tree(terms, seconds, levels, 1.0, PRIOR, ONE_BLOCK, 1.0, freedom=[1.0, 1e-6])
    assert np.allclose(free.coefficients[1], [[1.0, 1.0], [2.0, 2.0]], rtol=0.05)
    assert np.allclose(held.coefficients[1][:, 1], held.coefficients[0][0, 1])
    assert held.coefficients[1][1, 0] > held.coefficients[1][0, 0]
