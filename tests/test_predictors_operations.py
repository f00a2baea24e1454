"""Operations and their time model: physics by hand, extrapolation, transfer, labels, real data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_data import DATA, needs_data

from experiments.operation_profiles import read_operations
from lemix_opt.errors import FieldError, UnknownNameError
from predictors.efficiencies import overlap
from predictors.errors_by_split import grouped_fifths, mape_pct, operation_splits
from predictors.gpus import GPUS, gpu_type
from predictors.measured_range import log_sizes
from predictors.model_shapes import model_shape
from predictors.operation_fit import Choices, Levels
from predictors.operation_model import LABELS, OperationTimeModel
from predictors.operation_terms import TERMS, terms, wave_padding
from predictors.operations import COLUMNS, column, operation_rows, tokens

SHAPE = model_shape("llama-7b")


def term(X: np.ndarray, name: str) -> np.ndarray:
    return terms(X)[:, TERMS.index(name)]


def truth(X: np.ndarray) -> np.ndarray:
    """A GPU at 60 % of peak with launches that do not overlap."""
    return 2e-3 + (term(X, "compute") + term(X, "weights")) / 0.6


def prefills(gpu: str = "a100-80gb", rows: tuple[int, ...] = (1, 2, 4, 8, 16)) -> np.ndarray:
    grid = np.array([(b, n) for b in rows for n in (32, 64, 128, 256, 512, 1024)])
    return operation_rows("prefill", SHAPE, gpu, rows=grid[:, 0], length=grid[:, 1])


def test_terms_are_those_of_the_data_sheet() -> None:
    X = operation_rows("prefill", SHAPE, "a100-80gb", rows=4, length=256)
    body = SHAPE.parameters - SHAPE.embedding_parameters - SHAPE.head_parameters
    assert term(X, "compute") == pytest.approx(2 * body * 1024 / 312e12)
    assert term(X, "weights") == pytest.approx(2 * body / 2039e9)
    assert term(X, "all_reduce") == 0
    split = operation_rows("prefill", SHAPE, "a100-80gb", rows=4, length=256, tensor=2)
    assert term(split, "compute") == pytest.approx(term(X, "compute") / 2)
    assert term(split, "all_reduce") == pytest.approx(32 * 2 * 2 * 0.5 * 1024 * 4096 * 2 / 600e9)


def test_a_backward_sums_as_often_as_a_forward() -> None:
    forward, backward, again = (
        operation_rows(kind, SHAPE, "a100-80gb", rows=2, length=64, tensor=4, recompute=r)
        for kind, r in (("forward", 0), ("backward", 0), ("backward", 1))
    )
    for name in ("all_reduce", "all_reduce_calls"):
        assert term(backward, name) == term(forward, name) > 0
        assert term(again, name) == 2 * term(forward, name)
    assert term(backward, "compute") == 2 * term(forward, "compute")


def test_prefills_over_several_gpus_allocate_what_the_memory_does_not_hold() -> None:
    def allocated(rows: int, tensor: int, kind: str = "prefill") -> float:
        X = operation_rows(kind, SHAPE, "a100-80gb", rows=rows, length=1024, tensor=tensor)
        return float(term(X, "allocations")[0])

    assert allocated(64, 1) == allocated(16, 8) == allocated(64, 8, "forward") == 0
    body = SHAPE.parameters - SHAPE.embedding_parameters - SHAPE.head_parameters
    states = 32 * 64 * 1024 * 4096 * (5 + 2 / 8)
    beyond = 2 * (body / 8 + states) - 1.05 * 80e9
    assert allocated(64, 8) == pytest.approx(beyond / 2039e9)


def test_terms_of_a_row_do_not_depend_on_the_others() -> None:
    alike, mixed = prefills(), np.concatenate([prefills(), prefills("h100-80gb")])
    for X in (alike, mixed):
        assert np.array_equal(terms(X), np.concatenate([terms(row[None]) for row in X]))
        padding = np.concatenate([wave_padding(row[None], (1.0, 3.0)) for row in X], axis=1)
        assert np.array_equal(wave_padding(X, (1.0, 3.0)), padding)
    assert terms(alike[:0]).shape == (0, len(TERMS))


def test_a_pipeline_takes_its_bubble_more() -> None:
    one, four = (
        operation_rows(
            "iteration", SHAPE, "a100-80gb", rows=1, length=64, micro_batches=8, pipeline=p
        )
        for p in (1, 4)
    )
    assert term(four, "compute") == pytest.approx(term(one, "compute") / 4 * (8 + 3) / 8)


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(1, 8))
def test_more_work_never_takes_less_at_peak_rates(rows: int, length: int, tensor: int) -> None:
    small, longer = (
        terms(operation_rows("prefill", SHAPE, "h100-80gb", rows=rows, length=n, tensor=tensor))
        for n in (length, length + 64)
    )
    assert np.all(longer >= small * (1 - 1e-12))


@given(st.lists(st.floats(1e-6, 10), min_size=3, max_size=3), st.sampled_from([1.0, 2.0, 5.0]))
def test_overlap_lies_between_the_longest_and_the_sum(parts: list[float], p: float) -> None:
    found = overlap(np.array([parts]), np.ones(3), np.arange(3), p)[0]
    assert max(parts) * (1 - 1e-9) <= found <= sum(parts) * (1 + 1e-9)


def test_bad_operations_are_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'a100-80gb'"):
        operation_rows("prefill", SHAPE, "a100-80", rows=1, length=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'decode'"):
        operation_rows("decod", SHAPE, "a100-80gb", rows=1, length=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'tensor'"):
        operation_rows("prefill", SHAPE, "a100-80gb", rows=1, length=1, tensors=2)
    with pytest.raises(FieldError, match="rows, row 1: 0"):
        operation_rows("prefill", SHAPE, "a100-80gb", rows=[1, 0], length=1)
    with pytest.raises(FieldError, match=f"shape .2, 2.*{len(COLUMNS)}"):
        OperationTimeModel().fit(np.ones((2, 2)), np.ones(2))


def test_every_gpu_names_its_source_and_has_plausible_rates() -> None:
    for gpu in GPUS.values():
        assert gpu.source
        assert gpu.half_flops > gpu.tensor_float_flops >= gpu.single_flops > 1e12
        assert 1e11 < gpu.bandwidth < 1e13
    assert gpu_type("a100-80gb").flops("single") == 19.5e12


@pytest.fixture(scope="module")
def fitted() -> OperationTimeModel:
    X = prefills()
    return OperationTimeModel(trees=10).fit(X, truth(X))


def test_it_extrapolates_what_physics_says(fitted: OperationTimeModel) -> None:
    far = prefills(rows=(64, 256))
    assert mape_pct(truth(far), fitted.predict(far)) < 8
    # A GPU that was never seen is at the same part of its own peak rates.
    other = prefills("h100-80gb", rows=(16,))
    assert mape_pct(truth(other), fitted.predict(other)) < 25


def test_a_few_points_of_a_new_gpu_help() -> None:
    X, other = prefills(), prefills("h100-80gb")
    slow = 2 * truth(other)
    some = np.arange(0, len(other), 7)
    both = OperationTimeModel(trees=10, calibrate=False).fit(
        np.concatenate([X, other[some]]), np.concatenate([truth(X), slow[some]])
    )
    assert mape_pct(slow, both.predict(other)) < 15


def test_labels_say_where_predictions_come_from(fitted: OperationTimeModel) -> None:
    asked = np.concatenate(
        [
            prefills()[:1],
            operation_rows("prefill", SHAPE, "a100-80gb", rows=3, length=100),
            operation_rows("prefill", SHAPE, "a100-80gb", rows=3, length=4096),
            operation_rows("prefill", SHAPE, "h100-80gb", rows=3, length=100),
            operation_rows("decode", SHAPE, "a100-80gb", rows=3, length=100),
        ]
    )
    said = [LABELS[at] for at in fitted.provenance(asked)]
    assert said == ["measured", "interpolated", "extrapolated", "extrapolated", "theoretical"]
    assert np.all(fitted.predict(asked) > 0)
    # No interval is made up where nothing was measured.
    assert np.isfinite(fitted.predict_interval(asked)).all(axis=1).tolist() == [True] * 4 + [False]
    assert np.isinf(fitted.predict_quantile(asked, 0.2)).tolist() == [False] * 4 + [True]


def test_the_same_data_give_the_same_model(fitted: OperationTimeModel) -> None:
    X = prefills()
    again = OperationTimeModel(trees=10).fit(X, truth(X))
    assert np.array_equal(again.predict(X), fitted.predict(X))
    # To the last bit, whatever is asked beside it.
    more = np.concatenate([X, prefills("h100-80gb"), prefills(rows=(64, 256))])
    asked = np.concatenate([more, operation_rows("decode", SHAPE, "a100-80gb", rows=3, length=9)])
    for answer in (fitted.predict, fitted.predict_interval, fitted.predict_quantile):
        assert np.array_equal(np.concatenate([answer(row[None]) for row in asked]), answer(asked))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 6))
def test_few_points_are_enough_for_an_answer(count: int) -> None:
    X = prefills()[:count]
    model = OperationTimeModel(trees=10).fit(X, truth(X))
    assert np.all(np.isfinite(model.predict(prefills())))
    assert model.predict_interval(X, 0.9).shape == (count, 2)


def test_groups_of_the_same_sizes_hold_out_points_of_their_own() -> None:
    X = np.concatenate([prefills(), prefills("h100-80gb")])
    groups = np.repeat(["a100-80gb", "h100-80gb"], len(X) // 2)
    for mask in grouped_fifths(X, groups):
        one, other = mask[: len(X) // 2], mask[len(X) // 2 :]
        assert np.sum(~one) == np.sum(~other) == len(X) // 10
        assert not np.array_equal(one, other)


def test_splits_hold_out_what_they_say() -> None:
    X = np.concatenate([prefills(), prefills("h100-80gb")])
    gpus = np.repeat(["a100-80gb", "h100-80gb"], len(X) // 2)
    splits = operation_splits(X, gpus, np.full(len(X), "llama-7b"), gpus)
    assert set(splits) == {"random fifth", "length > 128", "batch tokens > 512", "unseen GPU"}
    assert column(X, "length")[splits["length > 128"][0]].max() == 128
    assert tokens(X)[splits["batch tokens > 512"][0]].max() == 512
    assert [set(gpus[mask]) for mask in splits["unseen GPU"]] == [{"h100-80gb"}, {"a100-80gb"}]


@needs_data
def test_real_training_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    found = read_operations("vtrain-iteration")
    fit_on = grouped_fifths(found.X, np.full(len(found.seconds), "all"))[0]
    model = OperationTimeModel().fit(found.X[fit_on], found.seconds[fit_on])
    held, took = found.X[~fit_on], found.seconds[~fit_on]
    assert mape_pct(took, model.predict(held)) < 2.5
    low, high = model.predict_interval(held, 0.9).T
    assert 0.85 < np.mean((low <= took) & (took <= high)) < 0.99


@needs_data
def test_real_prefills_beyond_the_measured_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    found = read_operations("muxserve-prefill")
    fit_on = tokens(found.X) <= 8192
    model = OperationTimeModel(calibrate=False).fit(found.X[fit_on], found.seconds[fit_on])
    assert mape_pct(found.seconds[~fit_on], model.predict(found.X[~fit_on])) < 8


@needs_data
def test_real_tables_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    decode = read_operations("muxserve-decode")
    assert (len(decode.seconds), decode.missing) == (5120 - 416, 416)
    split = read_operations("splitwise-prefill")
    assert (len(split.seconds), split.implausible) == (1260 - 15, 15)
    with pytest.raises(UnknownNameError, match="Did you mean 'mpt-step'"):
        read_operations("mpt-steps")


@needs_data
def test_real_composed_tables_say_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    chunk, decode = read_operations("vllm-chunk"), read_operations("vllm-decode")
    assert (len(chunk.seconds), len(decode.seconds)) == (96, 99)
    assert int(np.sum(column(chunk.X, "context") > 0)) == 88
    assert chunk.source.startswith("composed of measured kernels")
    layer = read_operations("aceso-layer")
    # Six GPUs, three models, two precisions, four batches, each twice; the rest ran out of memory.
    assert len(layer.seconds) + layer.missing == 6 * 3 * 2 * 4 * 2
    assert set(column(layer.X, "kind")) == {2.0}
    peak = np.array([GPUS[name].half_flops for name in layer.gpus])
    products = 2 * column(layer.X, "layer_parameters") * tokens(layer.X)
    # No GPU computes faster than its data sheet by more than its clock can: a check of names.
    assert np.max(products / layer.seconds / peak) < 1.05


@needs_data
def test_real_chunks_behind_cached_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    for name, most in (("vllm-chunk", 2.5), ("vllm-decode", 2.0)):
        found = read_operations(name)
        fit_on = grouped_fifths(found.X, found.groups)[0]
        model = OperationTimeModel().fit(found.X[fit_on], found.seconds[fit_on])
        assert mape_pct(found.seconds[~fit_on], model.predict(found.X[~fit_on])) < most


def test_beyond_what_was_measured_the_chosen_part_of_the_correction_counts() -> None:
    X = prefills()
    waves = np.exp(0.2 * np.sin(np.log2(tokens(X))))
    model = OperationTimeModel(trees=30, calibrate=False, choices=Choices(0.3, 1.0, 0.0))
    model.fit(X, truth(X) * waves)
    far = prefills(rows=(4096,))
    group = model.physics_.find(Levels(far))
    doublings = model.range_.outside(log_sizes(far), group).sum(axis=1)
    assert np.all(doublings > 0)
    physics = model.physics_.seconds(terms(far), group)
    whole = OperationTimeModel(**{**model.get_params(), "choices": Choices(0.3, 1.0, 1.0)})
    corrected = whole.fit(X, truth(X) * waves).predict(far)
    # With no part of it far away, what is left of the correction halves with every doubling.
    expected = physics * (corrected / physics) ** (0.5**doublings)
    assert model.predict(far) == pytest.approx(expected)
